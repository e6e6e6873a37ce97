"""What is refused, at which moment, in which words, and that nothing has changed afterwards."""

from __future__ import annotations

import copy
import re

import pytest
import torch

import gradmem
from gradmem import CheckpointError, OptionError, OptionTypeError, StepError
from optimizers import (
    INFOS,
    continues,
    each,
    each_optimizer,
    parameters,
    refuse,
    train,
)

NAN, INF = float("nan"), float("inf")
MEMORY = {"capacity": 3, "decay": 0.9}

# option, another value
FIXED = {"capacity": 2, "scope": "tensor", "norm": "sum"}
FIXED |= {"memory_dtype": "int8", "memory_device": "cpu"}
# option, bad value, kind, allowed range, remedy or what the value is, as regular expressions
MEMORY_VALUES = [
    *[("capacity", v, OptionError, "at least 0", "0 switches") for v in (-1, -100)],
    *[
        ("capacity", v, OptionTypeError, "an integer", "0 switches the memory off")
        for v in (True, 2.5, NAN, "10", None, [3])
    ],
    *[("decay", v, OptionError, r"in \[0, 1\]", "0.7 to 0.99") for v in (-0.1, 1.01, NAN, INF)],
    *[("decay", v, OptionTypeError, "a number", type(v).__name__) for v in (True, "0.7", None)],
    *[("kappa", v, OptionError, "finite", "0 switches the memory off") for v in (NAN, INF, -INF)],
    *[("kappa", v, OptionTypeError, "a number", type(v).__name__) for v in (True, "1", None)],
    *[("seed", v, OptionError, "at least 0", "random policies") for v in (-1, -7)],
    *[("seed", v, OptionTypeError, "an integer", "random") for v in (True, 0.5, None, "3")],
    *[("max_age", v, OptionError, "at least 1", "None sets no limit") for v in (0, -5)],
    *[("max_age", v, OptionTypeError, "an integer", "None sets") for v in (True, 2.0, NAN, "3")],
    ("aggregate", "maximum", OptionError, "'mean', 'sum', 'mid'", "one of"),
    *[("aggregate", v, OptionTypeError, "'mean', 'sum', 'mid'", "one of") for v in (None, 1)],
    ("policy", "lru", OptionError, "'top_norm', 'bottom_norm', 'fifo'", "one of"),
    *[("policy", v, OptionTypeError, "'top_norm', 'bottom_norm'", "") for v in (True, ["fifo"])],
    ("scope", "layer", OptionError, "'model', 'group', 'tensor'", "one of"),
    *[("scope", v, OptionTypeError, "'model', 'group', 'tensor'", "one of") for v in (None, NAN)],
    ("norm", "L2", OptionError, "'l2', 'sum'", "one of"),
    ("norm", 2, OptionTypeError, "'l2', 'sum'", "one of"),
    *[("memory_dtype", v, OptionError, "'float32', .*", "or None") for v in ("int4", torch.int32)],
    ("memory_dtype", 8, OptionTypeError, "'float32', 'bfloat16', 'float16', 'int8' or None", "own"),
    ("memory_device", "cuda", OptionError, "'cpu' or None", "beside the parameters"),
    ("memory_device", True, OptionTypeError, "'cpu' or None", "beside the parameters"),
]
_FINITE = "a finite number of at least 0"
NUMBERS = [
    *[(v, OptionError) for v in (-1, -0.5, NAN, INF)],
    *[(v, OptionTypeError) for v in ("0.1", None, True)],
]
BASE_VALUES = [
    (option, value, kind, _FINITE, "")
    for option in (
        *("lr", "eps", "weight_decay", "momentum", "alpha"),
        *("momentum_decay", "lr_decay", "initial_accumulator_value"),
    )
    for value, kind in NUMBERS
]
BASE_VALUES += [("dampening", v, OptionError, "a finite number", "") for v in (NAN, INF)]
BASE_VALUES += [
    ("betas", (5, 0.9), OptionError, r"in \[0, 1\)", r"betas\[0\]"),
    ("betas", (0.9, 1.0), OptionError, r"in \[0, 1\)", r"betas\[1\]"),
    ("betas", (0.9, NAN), OptionError, r"in \[0, 1\)", r"betas\[1\]"),
    ("betas", (True, 0.9), OptionTypeError, r"in \[0, 1\)", r"betas\[0\]"),
    ("betas", (0.9,), OptionTypeError, r"two numbers in \[0, 1\)", ""),
    ("betas", 0.9, OptionTypeError, r"(two numbers|one number or more).* in \[0, 1\)", ""),
    ("betas", "ab", OptionTypeError, r"(two numbers|one number or more).* in \[0, 1\)", ""),
    ("betas", (), OptionTypeError, r"(two numbers|one number or more).* in \[0, 1\)", ""),
    ("lr", torch.tensor([0.1, 0.2]), OptionError, "1 element, got 2", ""),
    ("lr", torch.tensor(-1.0), OptionError, _FINITE, ""),
]


def _value_cases():
    for info in INFOS:
        known = info.base_cls([torch.nn.Parameter(torch.ones(1))]).defaults
        for option, value, *rest in MEMORY_VALUES + BASE_VALUES:
            if (option, value) == ("betas", (0.9,)) and info.name == "AggMo_C":
                continue  # it takes any number of betas
            if option in known or option in gradmem.MemoryOptions.__slots__:
                yield info, option, value, *rest, f"{info.name}-{option}-{value!r}"


each_bad_value = each(list(_value_cases()), ("info", "option", "value", "kind", "allowed", "more"))


def assert_says(error, option, value, *parts):
    """The name of the option, the value, the range, what to do."""
    message = str(error.value)
    assert re.search(rf"\b{option}\b", message), message
    if isinstance(value, torch.Tensor):
        value = value.tolist() if value.dim() == 0 else value.numel()
    values = value if isinstance(value, tuple) and "betas[" in message else (value,)
    assert any(repr(v) in message for v in values), message
    for part in parts:
        assert re.search(part, message), message


# Options ------------------------------------------------------------------------------------------


@each_bad_value
def test_a_bad_value_is_refused_at_construction(info, option, value, kind, allowed, more):
    with pytest.raises(kind) as error:
        info.optim_cls(parameters(), **{option: value})
    assert_says(error, option, value, allowed, more)
    assert isinstance(error.value, (ValueError, TypeError))
    assert isinstance(error.value, gradmem.GradmemError)


@each_bad_value
def test_a_bad_value_is_refused_in_a_group(info, option, value, kind, allowed, more):
    groups = [{"params": parameters()}, {"params": parameters(seed=1), option: value}]
    with pytest.raises(kind) as error:
        info.optim_cls(groups)
    assert_says(error, option, value, allowed, more, r"^param group 1: ")

    params = parameters()
    optimizer = info.make(params, **MEMORY)
    train(optimizer, params, 2)
    group = {"params": parameters(seed=1), option: value}
    error = refuse(kind, lambda: optimizer.add_param_group(group), optimizer, params)
    assert_says(error, option, value, allowed, more, r"^param group 1: ")
    continues(optimizer, params)


@each(
    [c for c in _value_cases() if c[1] in gradmem.MemoryOptions.__slots__ and c[2] is not True],
    ("info", "o", "v", "k", "a", "m"),
)
def test_a_bad_value_edited_into_a_group_is_refused_at_the_next_step(info, o, v, k, a, m):
    params = parameters()
    optimizer = info.make(params, **MEMORY)
    train(optimizer, params, 2)
    right = optimizer.param_groups[0][o]
    optimizer.param_groups[0][o] = v
    error = refuse((OptionError, OptionTypeError), optimizer.step, optimizer, params)
    fixed = o in FIXED
    assert_says(error, o, v, r"^param group 0: ", "set it back" if fixed else a)
    optimizer.param_groups[0][o] = right
    continues(optimizer, params)


@pytest.mark.parametrize("how", ["the next step", "add_param_group", "deepcopy", "memory_report"])
@pytest.mark.parametrize(("name", "value"), FIXED.items())
@each_optimizer
def test_an_option_that_is_fixed_cannot_be_edited(info, name, value, how):
    params = parameters()
    optimizer = info.make(params, **MEMORY)
    train(optimizer, params, 4)
    before = optimizer.param_groups[0][name]
    optimizer.param_groups[0][name] = value
    if how == "add_param_group":
        optimizer.add_param_group({"params": parameters(seed=3)})
    if how == "deepcopy":
        optimizer, params = copy.deepcopy((optimizer, params))
    action = optimizer.memory_report if how == "memory_report" else optimizer.step
    error = refuse(OptionError, action, optimizer, params)
    assert_says(error, name, value, re.escape(repr(before)), "set it back.*or make a new optimizer")
    optimizer.param_groups[0][name] = before
    continues(optimizer, params)


@each_optimizer
def test_a_removed_option_is_refused(info):
    params = parameters()
    optimizer = info.make(params, **MEMORY)
    train(optimizer, params, 2)
    del optimizer.param_groups[0]["kappa"]
    refuse(OptionError, optimizer.step, optimizer, params, "param group 0: kappa was removed; set")
    optimizer.param_groups[0]["kappa"] = 1.0
    continues(optimizer, params)


@each_optimizer
def test_a_misspelt_option_is_refused(info):
    with pytest.raises(TypeError, match="capcity"):
        info.optim_cls(parameters(), capcity=3)
    name = info.name.lower()
    with pytest.raises(OptionError, match=f"'capcity' for '{name}'; did you mean 'capacity'"):
        gradmem.create(name, parameters(), capcity=3)
    with pytest.raises(OptionError, match=r"'zzzz'.*known: aggregate, .*lr, "):
        gradmem.create(name, parameters(), zzzz=3)
    with pytest.raises(OptionError, match=f"did you mean '{name}'"):
        gradmem.create(info.name, parameters())
    with pytest.raises(OptionError, match="unknown optimizer 'zzzz'; known: adagrad_c, adam_c"):
        gradmem.options("zzzz")
    with pytest.raises((OptionError, OptionTypeError), match="None"):
        gradmem.create(None, parameters())


@pytest.mark.parametrize(
    ("key", "right"), [("weigth_decay", "weight_decay"), ("capcity", "capacity"), ("lrr", "lr")]
)
@each_optimizer
def test_a_misspelt_group_key_is_refused(info, key, right):
    sentence = f"param group 0: unknown key '{key}'; did you mean '{right}'"
    with pytest.raises(OptionError, match=sentence):
        info.optim_cls([{"params": parameters(), key: 0.1}])
    with pytest.raises(OptionError, match=r"unknown key 'zzzz'; known: .*capacity"):
        info.optim_cls([{"params": parameters(), "zzzz": 0.1}])
    with pytest.raises(OptionError, match="param group 0: the key 'params' is missing"):
        info.optim_cls([{"lr": 0.1}])
    optimizer = info.make(params := parameters())
    with pytest.raises(OptionTypeError, match=r"param group 1 must be a dict .*got list"):
        optimizer.add_param_group(params)
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("grouped", [False, True])
def test_options_that_contradict_each_other(grouped):
    def make(cls, **options):
        params = parameters()
        return cls([{"params": params, **options}]) if grouped else cls(params, **options)

    for info in INFOS:
        if "differentiable" in info.base.supported_impls:
            with pytest.raises(
                OptionError, match=r"differentiable=True is refused.*use the torch class"
            ):
                make(info.optim_cls, differentiable=True)
        if "fused" in info.supported_impls:
            with pytest.raises(
                OptionError, match=r"fused and foreach cannot both.*set one of them"
            ):
                make(info.optim_cls, fused=True, foreach=True)
        if info.foreach_refuses_tensor_lr:
            with pytest.raises(OptionError, match=r"tensor lr with foreach=True.*or a float lr"):
                make(info.optim_cls, lr=torch.tensor(0.1), foreach=True)
    for wrong in ({}, {"momentum": 0.0}, {"momentum": 0.9, "dampening": 0.1}):
        with pytest.raises(
            OptionError, match="nesterov=True needs momentum > 0 and dampening 0, got"
        ):
            make(gradmem.SGD_C, nesterov=True, **wrong)


# Closures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("closure", [3, "loss", torch.tensor(1.0)], ids=str)
@each_optimizer
def test_a_closure_that_cannot_be_called(info, closure):
    optimizer = info.make(params := parameters())
    train(optimizer, params, 2)
    sentence = f"closure must be callable or None, got {type(closure).__name__}; call loss.backward"
    refuse(StepError, lambda: optimizer.step(closure), optimizer, params, sentence)
    continues(optimizer, params)


@pytest.mark.parametrize("inner", ["without a closure", "with a closure"])
@each_optimizer
def test_a_closure_that_calls_step_is_refused(info, inner):
    optimizer = info.make(params := parameters(), **MEMORY)
    train(optimizer, params, 2)
    arguments = [] if inner == "without a closure" else [lambda: 1.0]
    refuse(
        StepError,
        lambda: optimizer.step(lambda: optimizer.step(*arguments)),
        optimizer,
        params,
        "from within its own closure; the closure must only",
    )
    continues(optimizer, params)


@each_optimizer
def test_a_closure_that_raises_changes_nothing(info):
    optimizer = info.make(params := parameters(), **MEMORY)
    train(optimizer, params, 2)

    def closure():
        raise ZeroDivisionError("in the model")

    refuse(ZeroDivisionError, lambda: optimizer.step(closure), optimizer, params, "in the model")
    assert optimizer.step(lambda: 2.5) == 2.5
    continues(optimizer, params)


# Checkpoints --------------------------------------------------------------------------------------


def trained(info, seed=0, dtype=torch.float32, **options):
    params = parameters(dtype, seed=seed)
    optimizer = info.make(params, **{**MEMORY, "lr": 0.01, **options})
    train(optimizer, params, 4, seed=seed)
    return optimizer, params


OTHER = {"capacity": 5, "policy": "fifo", "scope": "tensor", "norm": "sum"}


@pytest.mark.parametrize("option", OTHER)
@each_optimizer
def test_a_checkpoint_of_another_memory_is_refused(info, option):
    optimizer, params = trained(info)
    other = trained(info, seed=1, **{option: OTHER[option]})[0].state_dict()
    error = refuse(CheckpointError, lambda: optimizer.load_state_dict(other), optimizer, params)
    own = optimizer.param_groups[0][option]
    sentence = f"the checkpoint has {option}={OTHER[option]!r}, this optimizer has {option}={own!r}"
    assert_says(error, option, OTHER[option], f"{sentence}; construct it with", "forget_memory")
    continues(optimizer, params)
    optimizer.load_state_dict(gradmem.forget_memory(other))
    assert optimizer.memory_report().scopes[0].occupied == 0
    continues(optimizer, params)


def _spoil(name, change):
    def spoil(state_dict):
        entry = state_dict["state"][1]
        entry[name] = change(entry[name])

    return spoil


SPOILT = {
    **{
        f"no {name}": lambda state_dict, name=name: state_dict["state"][1].pop(f"memory_{name}")
        for name in ("slots", "sum", "priority", "norm", "birth", "counters", "drift")
    },
    "slots of another shape": _spoil("memory_slots", lambda t: t[..., None]),
    "slots of another type": _spoil("memory_slots", lambda t: t.double()),
    "births of another type": _spoil("memory_birth", lambda t: t.float()),
    "counters of another version": _spoil("memory_counters", lambda t: t[:3]),
    "slots that are no tensor": _spoil("memory_slots", lambda t: t.tolist()),
    "ledgers that disagree": _spoil("memory_birth", lambda t: t + 1),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
@each_optimizer
def test_a_corrupted_checkpoint_is_refused(info, spoil):
    optimizer, params = trained(info)
    state_dict = copy.deepcopy(trained(info, seed=1)[0].state_dict())
    spoil(state_dict)
    load = lambda: optimizer.load_state_dict(state_dict)  # noqa: E731
    refuse(CheckpointError, load, optimizer, params, r"memor.*gradmem\.forget_memory\(state_dict\)")
    continues(optimizer, params)


@pytest.mark.parametrize(
    "edit", [{"decay": 7.0}, {"kappa": NAN}, {"aggregate": "maximum"}], ids=str
)
@each_optimizer
def test_a_checkpoint_with_an_option_out_of_range_is_refused(info, edit):
    optimizer, params = trained(info)
    state_dict = copy.deepcopy(optimizer.state_dict())
    state_dict["param_groups"][0].update(edit)
    load = lambda: optimizer.load_state_dict(state_dict)  # noqa: E731
    refuse((CheckpointError, OptionError), load, optimizer, params, "|".join(edit))
    continues(optimizer, params)


@each_optimizer
def test_a_checkpoint_of_another_model_is_refused(info):
    optimizer, params = trained(info)
    shapes = [p.shape for p in params]
    for other, kind, sentence in (
        (parameters(shapes=shapes[::-1]), CheckpointError, "of another model, order of groups"),
        (parameters(torch.float64), CheckpointError, "of another model, .* or precision"),
        (parameters(shapes=shapes[1:]), ValueError, "doesn't match the size"),
    ):
        foreign = info.make(other, **MEMORY)
        train(foreign, other, 4)
        load = lambda: optimizer.load_state_dict(foreign.state_dict())  # noqa: B023, E731
        refuse(kind, load, optimizer, params, sentence)
        continues(optimizer, params)
    two = info.make([{"params": parameters()}, {"params": parameters(seed=1)}], **MEMORY)
    load = lambda: optimizer.load_state_dict(two.state_dict())  # noqa: E731
    refuse(ValueError, load, optimizer, params, "different number of parameter groups")


@each_optimizer
def test_named_parameters_in_another_order_are_refused(info):
    shapes = [(2, 2)] * 4
    made = []
    for names in ("abcd", "abdc", "wxyz"):
        params = parameters(shapes=shapes)
        named = list(zip(names, params, strict=True))
        optimizer = info.make([{"params": named[:2]}, {"params": named[2:]}], **MEMORY)
        train(optimizer, params, 4)
        made.append((optimizer, params))
    (optimizer, params), (other, _), (renamed, _) = made
    load = lambda: optimizer.load_state_dict(other.state_dict())  # noqa: E731
    sentence = "another order: number 2 is 'd' there and 'c' here; construct the groups"
    refuse(CheckpointError, load, optimizer, params, sentence)
    optimizer.load_state_dict(renamed.state_dict())
    continues(optimizer, params)
