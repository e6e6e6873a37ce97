"""gradmem in the trainers people use: what a memory does, where a trainer logs.

`scalars` needs nothing but gradmem; `transformers`, `accelerate` and `lightning` need the library
of that name, which ``pip install 'gradmem[lightning]'`` and so on brings.
"""
