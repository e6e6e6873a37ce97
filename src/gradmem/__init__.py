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
from gradmem.memory.aggregates import AggregateFunction, Weights
from gradmem.memory.ledger import Ledger
from gradmem.memory.options import MemoryOptions
from gradmem.memory.policies import Choice, Directions, Offer, PolicyFunction
from gradmem.optim.adagrad import Adagrad_C
from gradmem.optim.adam import Adam_C, AdamW_C
from gradmem.optim.aggmo import AggMo, AggMo_C
from gradmem.optim.augmented import MemoryAugmented
from gradmem.optim.checkpoint import forget_memory
from gradmem.optim.critical_momenta import Adam_CM, AdamW_CM
from gradmem.optim.critical_sgd import SGD_CM
from gradmem.optim.full_history.sag import SAG, SAGA
from gradmem.optim.full_history.svrg import SVRG
from gradmem.optim.full_history.table import table_bytes
from gradmem.optim.nadam import NAdam_C
from gradmem.optim.radam import RAdam_C
from gradmem.optim.recorder import Recorder, StepRecord
from gradmem.optim.report import MemoryBytes, MemoryReport, ScopeReport, memory_bytes
from gradmem.optim.rmsprop import RMSprop_C
from gradmem.optim.sgd import SGD_C
from gradmem.optim.shell import MemoryOptimizer
from gradmem.optim.together import decide_together
from gradmem.registry import create, names, options

__version__ = "0.1.0"

__all__ = [
    "SAG",
    "SAGA",
    "SGD_C",
    "SGD_CM",
    "SVRG",
    "Adagrad_C",
    "AdamW_C",
    "AdamW_CM",
    "Adam_C",
    "Adam_CM",
    "AggMo",
    "AggMo_C",
    "AggregateFunction",
    "CheckpointError",
    "Choice",
    "Directions",
    "GradientError",
    "GradmemError",
    "Ledger",
    "MemoryAugmented",
    "MemoryBytes",
    "MemoryOptimizer",
    "MemoryOptions",
    "MemoryReport",
    "NAdam_C",
    "Offer",
    "OptionError",
    "OptionTypeError",
    "PolicyFunction",
    "RAdam_C",
    "RMSprop_C",
    "Recorder",
    "ScopeReport",
    "StepError",
    "StepRecord",
    "Weights",
    "__version__",
    "create",
    "decide_together",
    "forget_memory",
    "memory_bytes",
    "names",
    "options",
    "table_bytes",
]
