"""The memory of past gradients for JAX, as an optax transformation.

It needs the extra ``jax``: ``pip install 'gradmem[jax]'``.
"""

from __future__ import annotations

from importlib.util import find_spec

_missing = [name for name in ("jax", "optax") if find_spec(name) is None]
if _missing:
    raise ModuleNotFoundError(
        f"gradmem.jax needs {' and '.join(_missing)}; install with: pip install 'gradmem[jax]'",
        name=_missing[0],
    )

from gradmem.jax.ledger import Ledger  # noqa: E402
from gradmem.jax.report import MemoryReport, ScopeReport, memory_report  # noqa: E402
from gradmem.jax.transform import MemoryState, remember_gradients  # noqa: E402

__all__ = [
    "Ledger",
    "MemoryReport",
    "MemoryState",
    "ScopeReport",
    "memory_report",
    "remember_gradients",
]
