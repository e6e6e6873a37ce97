"""Experiments that ask whether a gradient memory helps, with the optimizers as any user has them.

Nothing outside this package imports it. It needs the extra ``lab``: ``pip install "gradmem[lab]"``.
"""
