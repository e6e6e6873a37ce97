"""A memory of past gradients for PyTorch optimizers.

>>> import torch
>>> from gradmem import Adam_C
>>> model = torch.nn.Linear(3, 1)
>>> optimizer = Adam_C(model.parameters(), lr=1e-3, capacity=10, decay=0.7)
>>> model(torch.ones(5, 3)).square().mean().backward()
>>> optimizer.step()
>>> optimizer.memory_report().scopes[0].occupied
1
"""

from gradmem.errors import (
    CheckpointError,
    GradientError,
    GradmemError,
    OptionError,
    OptionTypeError,
    StepError,
)
from gradmem.memory.options import MemoryOptions
from gradmem.optim.adam import Adam_C, AdamW_C
from gradmem.optim.checkpoint import forget_memory
from gradmem.optim.report import MemoryBytes, MemoryReport, ScopeReport, memory_bytes
from gradmem.optim.rmsprop import RMSprop_C
from gradmem.optim.sgd import SGD_C
from gradmem.optim.shell import MemoryOptimizer
from gradmem.registry import create, names, options

__version__ = "0.1.0"

__all__ = [
    "SGD_C",
    "AdamW_C",
    "Adam_C",
    "CheckpointError",
    "GradientError",
    "GradmemError",
    "MemoryBytes",
    "MemoryOptimizer",
    "MemoryOptions",
    "MemoryReport",
    "OptionError",
    "OptionTypeError",
    "RMSprop_C",
    "ScopeReport",
    "StepError",
    "__version__",
    "create",
    "forget_memory",
    "memory_bytes",
    "names",
    "options",
]
