"""What the tests of MemoryAugmented share: cases, the wrappers made of them, and copies."""

from __future__ import annotations

import copy

import pytest
import torch

from gradmem import MemoryAugmented, MemoryOptions
from optimizers import SHAPES, each, parameters, records

OFF = {"capacity": {"capacity": 0}, "kappa": {"kappa": 0}}
MEMORY = {"capacity": 3, "decay": 0.9}
# Muon takes matrices alone, Adafactor no empty tensor.
SHAPES_FOR = {
    torch.optim.Muon: [(3, 4), (4, 2), (5, 5)],
    torch.optim.Adafactor: [(3, 4), (), (5,), (2, 1, 3)],
}


def _torch_cases():
    """Every optimizer of torch but the two that are refused, with torch's own inputs and forms."""
    for info in records.optim_db:
        if info.optim_cls in (torch.optim.LBFGS, torch.optim.SparseAdam):
            continue
        forms = {"forloop": {"foreach": False}, "foreach": {"foreach": True}}
        if "fused" in info.supported_impls and "cpu" in info.supports_fused_on:
            forms["fused"] = {"fused": True}
        for given in info.optim_inputs_func("cpu"):
            for name, form in forms.items() if "foreach" in info.supported_impls else [("", {})]:
                tensor_lr = isinstance(given.kwargs.get("lr"), torch.Tensor)
                if not (tensor_lr and name == "foreach"):
                    desc = f"{info.optim_cls.__name__}-{given.desc}-{name}".replace(" ", "_")
                    yield info.optim_cls, {**given.kwargs, **form}, desc


TORCH = list(_torch_cases())
CLASSES = list(dict.fromkeys(case[0] for case in TORCH))
each_torch = each(TORCH, ("cls", "kwargs"))
each_class = pytest.mark.parametrize("cls", CLASSES)


def parameters_for(cls, seed=0):
    return parameters(shapes=SHAPES_FOR.get(cls, SHAPES), seed=seed)


def made(cls, kwargs=None, **memory):
    """The wrapper around a torch class, and its parameters."""
    params = parameters_for(cls)
    return MemoryAugmented(cls(params, **copy.deepcopy(kwargs or {})), **memory), params


def wrapped(info, params, **kwargs):
    """The wrapper with the options that make the named class of the table."""
    default = info.make(parameters()).defaults
    names = MemoryOptions.__slots__
    memory = {name: kwargs.get(name, default[name]) for name in names}
    own = {name: value for name, value in kwargs.items() if name not in names}
    return MemoryAugmented(info.base_cls(params, **copy.deepcopy(own)), **memory)


def named_class(info, params, **kwargs):
    """The class by the torch implementation that a wrapped optimizer has by default.

    Left to itself the class takes torch's fused kernel, which rounds otherwise.
    """
    free = info.optim_cls._torch_kernel and not {"fused", "foreach"} & {*kwargs}
    return info.make(params, **({"foreach": False} if free else {}), **kwargs)


def everything(optimizer, params):
    """Copies of the parameters and of the complete state, the memory's and the base's."""
    state = copy.deepcopy(optimizer.state_dict()["state"])
    return {"parameters": [p.detach().clone() for p in params], "state": state}


def copied(params):
    return [torch.nn.Parameter(p.detach().clone()) for p in params]


def occupied(optimizer):
    return [scope.occupied for scope in optimizer.memory_report().scopes]


class Spy(torch.optim.Optimizer):
    """Keeps copies of the gradients it is handed, and does nothing else."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.0})
        self.seen = []

    def step(self, closure=None):
        assert closure is None
        params = [p for group in self.param_groups for p in group["params"]]
        self.seen = [None if p.grad is None else p.grad.clone() for p in params]
