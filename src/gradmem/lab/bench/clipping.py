"""Steps after gradients were clipped, as many trainings take them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from torch import nn
from torch.optim import Optimizer

import gradmem


@dataclass
class Clipping:
    """An optimizer whose step begins by clipping: ours by its own method, others by torch's.

    ``limits`` are the norms to clip to, one a step, whoever takes it.
    """

    optimizer: Optimizer
    params: Sequence[nn.Parameter]
    limits: Iterator[float]

    def step(self) -> None:
        """Clip to the next of the norms, and take the step."""
        limit = next(self.limits)
        if isinstance(self.optimizer, gradmem.MemoryOptimizer):
            self.optimizer.clip_grad_norm_(limit)
        else:
            nn.utils.clip_grad_norm_(self.params, limit)
        self.optimizer.step()


def falling(params: Sequence[nn.Parameter]) -> Iterator[float]:
    """Norms, each a little below the last, so that every step has to multiply the gradients.

    >>> import torch
    >>> one = nn.Parameter(torch.zeros(4))
    >>> one.grad = torch.ones(4)
    >>> limits = falling([one])
    >>> round(next(limits), 3), round(next(limits), 3)
    (1.998, 1.996)
    """
    norm = float(nn.utils.get_total_norm([p.grad for p in params if p.grad is not None]))
    return (norm * 0.999**i for i in count(1))
