"""An optimizer of one's own in the lab, alone and with a memory around it; in this folder:

gradmem compare digits --optimizers adam,own_optimizer.py:Signum,own_optimizer.py:Signum+memory
"""

from typing import ClassVar

import torch


class Signum(torch.optim.Optimizer):
    """Every parameter moves by the learning rate, along the sign of its mean gradient."""

    search_space: ClassVar = {"lr": {"low": 1e-5, "high": 0.1}, "momentum": [0.9, 0.99]}

    def __init__(self, params, lr=1e-3, momentum=0.9):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        """One step, after one evaluation of the closure if there is one."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                    mean.lerp_(p.grad, 1 - group["momentum"])
                    p.sub_(mean.sign(), alpha=group["lr"])
        return loss
