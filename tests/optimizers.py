"""The one table that drives every generic test: a record an optimizer, in the form of torch's own.

The records are `torch.testing._internal.common_optimizers.OptimizerInfo`: what torch's own suite
tries with SGD, Adam and the others is tried with ours, and the memory's options are added. AggMo,
which torch does not have, has a record of the same form.
Below the table: small parameters, gradients, and comparisons bit by bit.
"""

from __future__ import annotations

import copy
import importlib
import re
import sys
from unittest import mock

import pytest
import torch

import gradmem


def _torch_records():
    """torch's module of optimizer records.

    It imports test machinery that needs packages we do not require and that changes global
    settings of torch. The records use none of it, so it is replaced while they are imported.
    """
    package = "torch.testing._internal"
    unused = ("common_device_type", "common_methods_invocations", "common_utils")
    with mock.patch.dict(sys.modules, {f"{package}.{name}": mock.MagicMock() for name in unused}):
        return importlib.import_module(f"{package}.common_optimizers")


torch.set_num_threads(1)  # equal thread counts, equal bits; and these tensors are small
records = _torch_records()
OptimizerInput = records.OptimizerInput

# Every memory option away from its default, with an option of the torch class beside it that
# every torch class has.
MEMORY_INPUTS = {
    "capacity 3, decay .9": {"capacity": 3, "decay": 0.9},
    "decay 0, weight decay": {"capacity": 2, "decay": 0.0, "weight_decay": 0.1},
    "aggregate mid, decay 1": {"capacity": 4, "decay": 1.0, "aggregate": "mid"},
    "the other aggregate, kappa .5": {"capacity": 3, "kappa": 0.5},
    "kappa negative": {"capacity": 3, "kappa": -0.3, "aggregate": "sum"},
    "bottom_norm, scope group": {"capacity": 3, "policy": "bottom_norm", "scope": "group"},
    "fifo, scope tensor, maximize": {
        "capacity": 2,
        "policy": "fifo",
        "scope": "tensor",
        "maximize": True,
    },
    "norm sum, max_age 3": {"capacity": 5, "decay": 0.95, "norm": "sum", "max_age": 3},
    "scope tensor, max_age 1": {"capacity": 2, "scope": "tensor", "max_age": 1, "lr": 0.002},
    "random, seed 3, median_mean": {
        "capacity": 3,
        "policy": "random",
        "seed": 3,
        "aggregate": "median_mean",
    },
}


def _aggmo_inputs(device, dtype=None):
    return [
        OptimizerInput(None, {}, "default"),
        OptimizerInput(None, {"betas": (0.6,), "weight_decay": 0.1}, "one beta, weight_decay"),
        OptimizerInput(None, {"betas": [0.9, 0.5], "maximize": True}, "two betas, maximize"),
        OptimizerInput(None, {"lr": torch.tensor(0.001)}, "Tensor lr"),
    ]


def _aggmo_errors(device, dtype):
    bad = OptimizerInput(None, {"betas": (1.0, 0.0)}, "a beta of 1")
    return [
        *records.get_error_inputs_for_all_optims(device, dtype),
        records.ErrorOptimizerInput(
            bad, error_type=ValueError, error_regex="Invalid beta parameter"
        ),
    ]


AGGMO = records.OptimizerInfo(
    gradmem.AggMo,
    optim_inputs_func=_aggmo_inputs,
    optim_error_inputs_func=_aggmo_errors,
    supported_impls=("foreach",),
)


class Info(records.OptimizerInfo):
    """torch's record, with the torch class and what ours adds to it."""

    def __init__(self, optim_cls, base_cls, other_aggregate, extra=(), lr=0.01):
        """`extra`: options of the torch class that torch's own inputs leave out; `lr`: one that is
        no danger to a problem of curvature 10.
        """
        (base,) = (info for info in [*records.optim_db, AGGMO] if info.optim_cls is base_cls)
        self.base = base
        self.base_cls = base_cls
        self.other_aggregate = other_aggregate
        self.extra = extra
        self.lr = lr
        # torch itself takes a tensor lr with foreach only if capturable, in Adam and AdamW
        self.foreach_refuses_tensor_lr = issubclass(base_cls, torch.optim.Adam)
        super().__init__(
            optim_cls,
            optim_inputs_func=self._inputs,
            optim_error_inputs_func=self._error_inputs,
            scheduler_inputs=base.scheduler_inputs,
            # a derivative through the step would be wrong; test_bad_input has the refusal
            supported_impls=tuple(x for x in base.supported_impls if x != "differentiable"),
            has_capturable_arg=base.has_capturable_arg,
            supports_complex=base.supports_complex,
            supports_fused_on=tuple(x for x in base.supports_fused_on if x in ("cpu", "cuda")),
        )

    def _inputs(self, device, dtype=None):
        inputs = list(self.base.optim_inputs_func(device, dtype))
        for kwargs in self.extra:
            inputs.append(OptimizerInput(None, dict(kwargs), ", ".join(kwargs)))
        for i, (desc, memory) in enumerate(MEMORY_INPUTS.items()):
            beside = inputs[i % len(inputs)].kwargs
            kwargs = {**beside, **memory}
            if "other aggregate" in desc:
                kwargs["aggregate"] = self.other_aggregate
            inputs.append(OptimizerInput(None, kwargs, desc))
        return copy.deepcopy(inputs)

    def _error_inputs(self, device, dtype):
        """What torch refuses, and what the memory refuses; our sentences in place of torch's."""
        errors = []
        for error in self.base.optim_error_inputs_func(device, dtype):
            error = copy.copy(error)
            for theirs, kind, ours in REWORDED:
                if re.search(theirs, error.error_regex):
                    error.error_type, error.error_regex = kind, ours
            errors.append(error)
        for kwargs, kind, regex in MEMORY_ERRORS:
            errors.append(
                records.ErrorOptimizerInput(
                    OptimizerInput(None, kwargs, f"{kwargs}"), error_type=kind, error_regex=regex
                )
            )
        return errors

    def make(self, params, **kwargs):
        return self.optim_cls(params, **copy.deepcopy(kwargs))

    def make_base(self, params, **kwargs):
        own = {k: v for k, v in kwargs.items() if k not in gradmem.MemoryOptions.__slots__}
        return self.base_cls(params, **copy.deepcopy(own))


REWORDED = [
    (r"Tensor lr must be 1-element", gradmem.OptionError, r"lr as a tensor must have 1 element"),
    (r"Invalid beta parameter", gradmem.OptionError, r"betas\[0\] must be in \[0, 1\), got 1\.0"),
    (r"Invalid weight_decay", gradmem.OptionError, r"weight_decay must be a finite.*0, got -1"),
    (r"Invalid momentum value", gradmem.OptionError, r"momentum must be a finite.*0, got -\d"),
    (r"Invalid momentum_decay", gradmem.OptionError, r"momentum_decay must be a.*0, got -0\.2"),
    (r"Invalid lr_decay", gradmem.OptionError, r"lr_decay must be a finite.*0, got -0\.5"),
    (r"^lr as a Tensor", gradmem.OptionError, r"tensor lr with foreach=True needs capturable"),
    (r"cannot be `True` together", gradmem.OptionError, r"fused and foreach cannot both be True"),
    # torch only warns; a memory would count the gradient twice.
    (r"duplicate parameters", gradmem.GradientError, r"parameter 1 is parameter 0 again"),
    (r"not support `differentiable`", gradmem.OptionError, r"differentiable=True is refused"),
]
MEMORY_ERRORS = [
    ({"capacity": -1}, gradmem.OptionError, r"capacity must be at least 0, got -1; 0 switches"),
    ({"capacity": 2.0}, gradmem.OptionTypeError, r"capacity must be an integer, got 2.0 \(float"),
    ({"decay": 1.5}, gradmem.OptionError, r"decay must be in \[0, 1\], got 1.5; the paper uses"),
    ({"decay": "high"}, gradmem.OptionTypeError, r"decay must be a number, got 'high' \(str"),
    ({"kappa": float("inf")}, gradmem.OptionError, r"kappa must be a finite number, got inf; 1 is"),
    (
        {"aggregate": "maximum"},
        gradmem.OptionError,
        r"aggregate must be one of 'mean'.*got 'maximum'",
    ),
    ({"policy": "lru"}, gradmem.OptionError, r"policy must be one of 'top_norm'.*got 'lru'"),
    ({"scope": "layer"}, gradmem.OptionError, r"scope must be one of 'model'.*got 'layer'"),
    ({"norm": "l1"}, gradmem.OptionError, r"norm must be one of 'l2', 'sum', got 'l1'"),
    ({"max_age": 0}, gradmem.OptionError, r"max_age must be at least 1, got 0; None sets no"),
    ({"seed": -1}, gradmem.OptionError, r"seed must be at least 0, got -1"),
    ({"memory_dtype": "int4"}, gradmem.OptionError, r"memory_dtype must be one.*got 'int4'"),
    ({"memory_device": "disk"}, gradmem.OptionError, r"memory_device must be one.*got 'disk'"),
]

INFOS = [
    Info(gradmem.SGD_C, torch.optim.SGD, "mean", [{"momentum": 0.8, "maximize": True}]),
    Info(gradmem.RMSprop_C, torch.optim.RMSprop, "sum", [{"alpha": 0.9, "eps": 1e-6}]),
    Info(
        gradmem.Adam_C,
        torch.optim.Adam,
        "sum",
        [{"betas": (0.8, 0.9), "eps": 1e-6}, {"weight_decay": 0.1, "decoupled_weight_decay": True}],
    ),
    Info(gradmem.AdamW_C, torch.optim.AdamW, "sum", [{"betas": (0.8, 0.9), "eps": 1e-6}]),
    Info(
        gradmem.NAdam_C,
        torch.optim.NAdam,
        "sum",
        [{"betas": (0.8, 0.9), "eps": 1e-6}, {"lr": torch.tensor(0.001, dtype=torch.float64)}],
    ),
    Info(
        gradmem.RAdam_C,
        torch.optim.RAdam,
        "sum",
        [{"betas": (0.8, 0.9)}, {"lr": torch.tensor(0.001, dtype=torch.float64)}],
    ),
    Info(gradmem.Adagrad_C, torch.optim.Adagrad, "sum", [{"eps": 1e-6, "maximize": True}]),
    Info(gradmem.AggMo_C, gradmem.AggMo, "mean", lr=0.001),
]

each_optimizer = pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)


def each(cases, names):
    """Parametrise over (info, ..., id) tuples."""
    return pytest.mark.parametrize(names, [case[:-1] for case in cases], ids=[c[-1] for c in cases])


def impls(info, device="cpu"):
    """The ways torch can carry the step out here, by name."""
    flags = [x for x in info.supported_impls if x != "fused" or device in info.supports_fused_on]
    off = dict.fromkeys(flags, False)
    return {"forloop": off, **{flag: {**off, flag: True} for flag in flags}}


def takes(info, kwargs, impl_name):
    """Whether torch takes these together: in some classes a tensor lr with foreach needs
    capturable, and that an accelerator.
    """
    tensor_lr = isinstance(kwargs.get("lr"), torch.Tensor)
    refused = tensor_lr and impl_name == "foreach" and info.foreach_refuses_tensor_lr
    return not refused or kwargs.get("capturable", False)


def _cases(infos, device, *, each_impl):
    for info in infos:
        for given in info.optim_inputs_func(device):
            for name, impl in impls(info, device).items() if each_impl else [("default", {})]:
                if takes(info, given.kwargs, name):
                    desc = given.desc.replace(" ", "_")
                    yield info, {**given.kwargs, **impl}, f"{info.name}-{desc}-{name}"


INPUTS = list(_cases(INFOS, "cpu", each_impl=False))
INPUTS_AND_IMPLS = list(_cases(INFOS, "cpu", each_impl=True))
each_input = each(INPUTS, ("info", "kwargs"))
each_input_and_impl = each(INPUTS_AND_IMPLS, ("info", "kwargs"))
each_impl = each(
    [(i, impl, f"{i.name}-{n}") for i in INFOS for n, impl in impls(i).items()], ("info", "impl")
)

SHAPES = [(3, 4), (), (0,), (5,), (2, 1, 3)]


def parameters(dtype=torch.float32, shapes=SHAPES, seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype).to(device))
        for shape in shapes
    ]


def gradients(params, seed=1, spread=0.7):
    """Lists of normal gradients, for ever, times a lognormal factor so that their norms differ."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        scale = float(torch.randn((), generator=generator).mul(spread).exp())
        yield [
            (torch.randn(p.shape, generator=generator, dtype=wide(p)) * scale).to(p)
            for p in (q.detach() for q in params)
        ]


def wide(tensor):
    """The type of a running sum: float32 or wider, complex if the tensor is."""
    return torch.promote_types(tensor.dtype, torch.float32)


def step_with(optimizer, params, grads):
    for p, grad in zip(params, grads, strict=True):
        p.grad = grad
    return optimizer.step()


def train(optimizer, params, steps=6, seed=1):
    """Steps with random gradients that depend on `seed` alone."""
    stream = gradients(params, seed)
    for _ in range(steps):
        step_with(optimizer, params, next(stream))


def snapshot(optimizer, params):
    """Copies of the parameters and of the complete state."""
    return {
        "parameters": [p.detach().clone() for p in params],
        "state": [copy.deepcopy(dict(optimizer.state.get(p, {}))) for p in params],
    }


def memory_of(optimizer, params):
    """Copies of all the memory keeps, but for the count of calls, which counts bad steps too."""
    kept = []
    for p in params:
        state = optimizer.state.get(p, {})
        entry = {k: v.clone() for k, v in state.items() if k.startswith("memory_")}
        if entry:
            entry["memory_counters"] = entry["memory_counters"][:3]
        kept.append(entry)
    return kept


def assert_same(ours, expected, where="", **tolerance):
    """Equal in structure, types and every bit, NaN to NaN; or closely, given a tolerance."""
    exact = {"rtol": 0.0, "atol": 0.0}
    if isinstance(expected, dict):
        assert sorted(ours) == sorted(expected), f"{where}: keys"
        for key in expected:
            assert_same(ours[key], expected[key], f"{where}[{key!r}]", **tolerance)
    elif isinstance(expected, (list, tuple)):
        assert len(ours) == len(expected), f"{where}: length"
        for i, (a, b) in enumerate(zip(ours, expected, strict=True)):
            assert_same(a, b, f"{where}[{i}]", **tolerance)
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(
            ours, expected, **(tolerance or exact), equal_nan=True, msg=lambda m: f"{where}: {m}"
        )
    else:
        assert type(ours) is type(expected), where
        assert ours == expected, where


def assert_differ(one, other):
    """The opposite of `assert_same`: guards a test against comparing nothing."""
    with pytest.raises(AssertionError):
        assert_same(one, other)


def refuse(error_type, action, optimizer, params, match=None):
    """`action` raises, parameters, gradients, groups and state being as they were."""
    before, gradient = snapshot(optimizer, params), [p.grad for p in params]
    groups = [repr({**group, "params": 0}) for group in optimizer.param_groups]
    with pytest.raises(error_type, match=match) as error:
        action()
    assert_same(snapshot(optimizer, params), before)
    assert all(p.grad is g for p, g in zip(params, gradient, strict=True))
    assert [repr({**group, "params": 0}) for group in optimizer.param_groups] == groups
    return error


def continues(optimizer, params):
    """The optimizer works on: a step changes the parameters and the memory."""
    before = snapshot(optimizer, params)
    train(optimizer, params, 1, seed=11)
    after = snapshot(optimizer, params)
    assert_differ(after["parameters"], before["parameters"])
    assert_differ(after["state"], before["state"])
