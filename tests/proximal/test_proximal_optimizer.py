"""ProximalOptimizer: equal to the twin at every step, and an Optimizer in everything else."""

from __future__ import annotations

import copy
import io
import pickle
from collections import Counter

import pytest
import torch
from torch.optim import lr_scheduler

import gradmem
import proximal_twin as twin
from gradmem import CheckpointError, OptionError, OptionTypeError, StepError
from gradmem.proximal import Groups, ProximalOptimizer
from optimizers import assert_differ, assert_same, gradients, parameters, refuse, step_with, train

SHAPES = [(4, 3), (5,), (3, 4, 2), (0, 3), (6, 2), ()]
VIEW = (3, 2, 1, 2)

BASES = {
    "SGD": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    "SGD nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.5, "nesterov": True}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 0.05, "eps": 0.05, "alpha": 0.8}),
    "RMSprop centered": (
        torch.optim.RMSprop,
        {"lr": 0.05, "eps": 0.05, "centered": True, "momentum": 0.5},
    ),
    "Adam": (torch.optim.Adam, {"lr": 0.05, "eps": 0.05, "betas": (0.8, 0.9)}),
    "Adam amsgrad": (
        torch.optim.Adam,
        {"lr": 0.05, "eps": 0.05, "amsgrad": True, "maximize": True, "betas": (0.5, 0.6)},
    ),
    "AdamW tensor lr": (
        torch.optim.AdamW,
        {"lr": torch.tensor(0.05, dtype=torch.float64), "eps": 0.05, "weight_decay": 0.5},
    ),
    "AdamW foreach": (torch.optim.AdamW, {"lr": 0.05, "eps": 0.05, "foreach": True}),
    "AdamW fused": (torch.optim.AdamW, {"lr": 0.05, "eps": 0.05, "fused": True}),
    "SGD_C": (gradmem.SGD_C, {"lr": 0.05, "capacity": 3, "momentum": 0.5}),
    "RMSprop_C": (gradmem.RMSprop_C, {"lr": 0.05, "eps": 0.05, "capacity": 3}),
    "Adam_C": (gradmem.Adam_C, {"lr": 0.05, "eps": 0.05, "capacity": 3, "amsgrad": True}),
    "AdamW_C": (gradmem.AdamW_C, {"lr": 0.05, "eps": 0.05, "capacity": 3, "foreach": True}),
}
OPTIONS = {
    "lasso": {"regularizer": "group_lasso", "penalty": 1.5},
    "lasso plain": {"regularizer": "group_lasso", "penalty": 2.5, "metric": "plain"},
    "linf": {"regularizer": "group_linf", "penalty": 3.0, "reweight": False},
    "mcp": {"regularizer": "group_mcp", "penalty": 1.5, "gamma": 2.5},
    "mcp plain": {"regularizer": "group_mcp", "penalty": 2.5, "gamma": 2.0, "metric": "plain"},
}
each_base = pytest.mark.parametrize(("cls", "kwargs"), BASES.values(), ids=BASES)
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def cuts(params):
    """Groups by columns, by last axis, of a view, and of a vector; one parameter is left out."""
    return {
        params[0]: Groups(1),
        params[1]: Groups(0),
        params[2]: Groups(-1),
        params[3]: Groups(0),
        params[4]: Groups(1, view=VIEW),
    }


def members(params):
    return {
        p: twin.indices(p.shape, groups.axis, groups.view) for p, groups in cuts(params).items()
    }


def start(dtype=torch.float64):
    """Parameters with a small and a large group."""
    params = parameters(dtype, SHAPES)
    with torch.no_grad():
        params[0][:, 0] *= 0.02
        params[0][:, 2] *= 8.0
        params[2][..., 0] *= 0.02
    return params


def made(cls=torch.optim.Adam, kwargs=None, dtype=torch.float64, **options):
    params = start(dtype)
    base = cls(params, **copy.deepcopy(kwargs or {"lr": 0.05, "eps": 0.05}))
    options = {"penalty": 1.5, "groups": cuts(params), **options}
    return ProximalOptimizer(base, **options), params


def everything(optimizer, params):
    state = copy.deepcopy(optimizer.state_dict()["state"])
    return {"parameters": [p.detach().clone() for p in params], "state": state}


def zeros(params):
    return sum(int((p == 0).sum()) for p in params)


# What a step does ---------------------------------------------------------------------------------


@each_base
@each_option
def test_it_is_the_twin_at_every_step(cls, kwargs, options):
    ours, params = made(cls, kwargs, **options)
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in params]
    base = cls(theirs, **copy.deepcopy(kwargs))
    schedules = [lr_scheduler.ExponentialLR(o, 0.9) for o in (ours, base)]
    stream, found = gradients(params), 0
    own = {name: value for name, value in options.items() if name != "regularizer"}
    for step in range(8):
        grads = [None if (step + i) % 5 == 4 else g for i, g in enumerate(next(stream))]
        # Powers of ten apart, so that rows of the metric differ.
        grads = [
            None if g is None else g * torch.linspace(0.05, 1, g.numel()).view(g.shape)
            for g in grads
        ]
        step_with(ours, params, [None if g is None else g.clone() for g in grads])
        step_with(base, theirs, grads)
        twin.step(base, name=options["regularizer"], groups=members(theirs), **own)
        assert_same(params, theirs, f"step {step}", rtol=1e-9, atol=1e-10)
        assert all(torch.equal(p == 0, q == 0) for p, q in zip(params, theirs, strict=True))
        found += zeros(params)
        for schedule in schedules:
            schedule.step()
    assert found > 0, "no group became zero"
    assert any(p.numel() and (p != 0).any() for p in params[:3]), "all became zero"


@each_base
@pytest.mark.parametrize("off", ["penalty", "groups"])
def test_without_a_penalty_or_groups_it_is_the_optimizer_bit_for_bit(cls, kwargs, off):
    options = {"penalty": 0.0} if off == "penalty" else {"groups": {}}
    if isinstance(kwargs["lr"], torch.Tensor):
        kwargs = {**kwargs, "lr": kwargs["lr"].float()}
    ours, params = made(cls, kwargs, torch.float32, **options)
    theirs = start(torch.float32)
    base = cls(theirs, **copy.deepcopy(kwargs))
    train(ours, params)
    train(base, theirs)
    assert_same(everything(ours, params), everything(base, theirs))


@each_option
def test_a_step_size_of_zero_changes_nothing(options):
    ours, params = made(**options)
    train(ours, params, 2)
    before = [p.detach().clone() for p in params]
    ours.param_groups[0]["lr"] = 0.0
    train(ours, params, 1)
    assert_same([p.detach() for p in params], before)


@each_option
@pytest.mark.parametrize("base", ["SGD", "RMSprop centered", "Adam amsgrad"])
def test_other_layouts_and_portions_make_no_difference(options, base, monkeypatch):
    cls, kwargs = BASES[base]
    shape, view = (6, 4, 2, 3), (3, 2, 8, 3)  # a copy with the channels last
    trained = []
    for layout in (torch.contiguous_format, torch.channels_last):
        for chunk in (2**15, 10):
            monkeypatch.setattr("gradmem.proximal.apply._CHUNK", chunk)
            params = parameters(torch.float64, [shape] * 4)
            params = [torch.nn.Parameter(p.detach().to(memory_format=layout)) for p in params]
            how = [Groups(0), Groups(1), Groups(1, view), Groups(3)]
            ours = ProximalOptimizer(
                cls(params, **kwargs), groups=dict(zip(params, how, strict=True)), **options
            )
            generator = torch.Generator().manual_seed(1)
            for _ in range(4):
                for p in params:
                    g = torch.randn(shape, generator=generator, dtype=torch.float64)
                    p.grad = torch.empty_like(p).copy_(g)
                ours.step()
            trained.append([p.detach().contiguous() for p in params])
    for other in trained[1:]:
        assert_same(other, trained[0], rtol=1e-11, atol=1e-13)


def test_bfloat16_is_rounded_once():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    p = torch.nn.Parameter(weight.clone())
    ours = ProximalOptimizer(torch.optim.SGD([p], lr=0.5), penalty=0.1)
    p.grad = torch.zeros_like(p)
    ours.step()
    expected = weight.float() * (1 - 0.5 * 0.1 * 8 / weight.float().norm(dim=1, keepdim=True))
    assert torch.equal(p.detach(), expected.bfloat16())


def test_by_default_the_first_of_two_or_more_dimensions_is_cut():
    params = parameters(torch.float32, SHAPES)
    ours = ProximalOptimizer(torch.optim.SGD(params, lr=0.1), penalty=0.1)
    rows = (0, None)
    assert ours.param_groups[0]["groups"] == [rows, None, rows, rows, rows, None]


def test_training_settles_where_the_penalty_says():
    """|w| - a quadratic's: the minimiser of 1/2 (w - c)^2 + lambda |w| is known, with any metric;
    momentum mu makes it that of (1 - mu) lambda.
    """
    center, penalty = torch.tensor([[1.0, 2.0], [0.1, 0.1]], dtype=torch.float64), 0.5
    cases = [
        (torch.optim.SGD, {"lr": 0.1}, penalty),
        (torch.optim.SGD, {"lr": 0.05, "momentum": 0.5}, penalty / 2),
        (torch.optim.RMSprop, {"lr": 0.01, "eps": 0.1}, penalty),
        (torch.optim.Adam, {"lr": 0.01, "betas": (0.5, 0.9)}, penalty),
        (torch.optim.Adam, {"lr": 0.01, "betas": (0.5, 0.9), "amsgrad": True}, penalty),
    ]
    for cls, kwargs, effective in cases:
        w = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
        ours = ProximalOptimizer(cls([w], **kwargs), penalty=penalty, reweight=False)
        for _ in range(1500):
            w.grad = w.detach() - center
            ours.step()
        norms = center.norm(dim=1, keepdim=True)
        expected = center * (1 - effective / norms).clamp(min=0.0)
        torch.testing.assert_close(w.detach(), expected, rtol=0, atol=1e-6)
        assert (w[1] == 0).all()


def test_the_value_is_the_sum_over_all_groups():
    ours, params = made(penalty=0.3)
    expected = sum(
        0.3 * len(m) ** 0.5 * p.detach().flatten()[m].norm()
        for p, groups in members(params).items()
        for m in groups
        if m
    )
    torch.testing.assert_close(ours.penalty_value(), expected, check_dtype=False)


# As an optimizer ----------------------------------------------------------------------------------


@each_base
def test_a_resumed_run_is_the_same_bit_for_bit(cls, kwargs):
    ours, params = made(cls, kwargs, penalty=5.0)
    train(ours, params, 4)
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = ProximalOptimizer(cls(others, **copy.deepcopy(kwargs)))
    resumed.load_state_dict(torch.load(file))
    assert resumed.param_groups[0]["groups"] == ours.param_groups[0]["groups"]
    assert resumed.param_groups[0]["penalty"] == 5.0
    train(ours, params, 4, seed=2)
    train(resumed, others, 4, seed=2)
    assert_same(everything(resumed, others), everything(ours, params))
    assert zeros(params) > 0


def test_a_checkpoint_of_the_optimizer_alone_keeps_the_options():
    ours, params = made()
    plain = torch.optim.Adam(parameters(torch.float64, SHAPES), lr=0.2)
    train(plain, plain.param_groups[0]["params"], 2)
    before = {k: v for k, v in ours.param_groups[0].items() if k != "params"}
    ours.load_state_dict(plain.state_dict())
    after = {k: v for k, v in ours.param_groups[0].items() if k != "params"}
    assert after["lr"] == 0.2
    assert {k: after[k] for k in before if k in ("penalty", "groups", "regularizer")} == {
        k: before[k] for k in ("penalty", "groups", "regularizer")
    }
    train(ours, params, 1)
    plain.load_state_dict(ours.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"penalty": -1.0}, r"param group 0 of the checkpoint: penalty must be .* got -1\.0"),
        ({"groups": [(3, None)] * 6}, r"checkpoint: parameter 0: axis must be one of the 2 dim"),
        ({"groups": [None] * 4}, r"one entry for each of the 6 parameters"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(change, message):
    ours, params = made()
    train(ours, params, 2)
    saved = copy.deepcopy(ours.state_dict())
    saved["param_groups"][0].update(change)
    refuse(CheckpointError, lambda: ours.load_state_dict(saved), ours, params, message)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_go_on_by_themselves(how):
    ours, params = made()
    train(ours, params, 3)
    other = copy.deepcopy(ours) if how == "deepcopy" else pickle.loads(pickle.dumps(ours))
    theirs = other.param_groups[0]["params"]
    assert all(p is not q for p, q in zip(params, theirs, strict=True))
    train(ours, params, 3, seed=5)
    assert_differ([p.detach() for p in params[:3]], [p.detach() for p in theirs[:3]])
    train(other, theirs, 3, seed=5)
    assert_same(everything(other, theirs), everything(ours, params))
    other.add_param_group({"params": [torch.nn.Parameter(torch.ones(2, 2))]})
    assert other.param_groups[1]["groups"] == [None]


def test_hooks_fire_once_and_the_closure_is_evaluated_once():
    base_params, seen = parameters(torch.float64, SHAPES), Counter()
    base = torch.optim.Adam(base_params, lr=0.01)
    base.register_step_pre_hook(lambda *_: seen.update(["pre of the base"]))
    ours = ProximalOptimizer(base, penalty=0.1)
    base.register_step_post_hook(lambda *_: seen.update(["post of the base"]))
    ours.register_step_pre_hook(lambda *_: seen.update(["pre"]))
    ours.register_step_post_hook(lambda *_: seen.update(["post"]))

    def closure():
        seen["closure"] += 1
        assert torch.is_grad_enabled()
        ours.zero_grad()
        loss = sum((p * p).sum() for p in base_params)
        loss.backward()
        return loss

    first = ours.step(closure)
    for _ in range(2):
        loss = ours.step(closure=closure)
    assert loss < first
    assert seen == dict.fromkeys(
        ["pre", "post", "pre of the base", "post of the base", "closure"], 3
    )
    with pytest.raises(StepError, match="callable or None, got int"):
        ours.step(3)


def test_it_has_the_wrapped_ones_groups_state_and_attributes():
    ours, params = made(gradmem.Adam_C, {"lr": 0.05, "capacity": 2})
    assert isinstance(ours, torch.optim.Optimizer)
    assert ours.param_groups is ours.optimizer.param_groups
    assert ours.state is ours.optimizer.state
    assert ours.defaults is ours.optimizer.defaults
    train(ours, params, 3)
    assert ours.memory_report().scopes[0].occupied == 2
    assert "penalty=1.5" in repr(ours)
    assert "Adam_C" in repr(ours)
    with pytest.raises(AttributeError, match="no_such_thing"):
        ours.no_such_thing  # noqa: B018


def test_a_scaler_skips_both_steps():
    ours, params = made(torch.optim.AdamW, {"lr": 0.05, "fused": True}, torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for bad in (False, True, False):
        before = [p.detach().clone() for p in params]
        ours.zero_grad()
        loss = sum((p * p).sum() for p in params) * (float("inf") if bad else 1.0)
        scaler.scale(loss).backward()
        scaler.step(ours)
        scaler.update()
        same = all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
        assert same == bad


def test_options_differ_by_group_and_can_be_edited():
    first, second, third = (
        torch.nn.Parameter(torch.full((2, 3), 0.5, dtype=torch.float64)) for _ in range(3)
    )
    ours = ProximalOptimizer(torch.optim.SGD([first], lr=0.1), penalty=0.1)
    ours.add_param_group({"params": second, "penalty": 100.0, "groups": {second: Groups(1)}})
    ours.optimizer.add_param_group({"params": [third]})
    for p in (first, second, third):
        p.grad = torch.zeros_like(p)
    ours.step()
    assert ours.param_groups[1]["groups"] == [(1, None)]
    assert ours.param_groups[2]["penalty"] == 0.1
    assert (second == 0).all()
    assert (first != 0).all()
    assert torch.equal(first, third)
    ours.param_groups[0]["penalty"] = 50
    ours.param_groups[2]["groups"] = [None]
    before = third.detach().clone()
    ours.step()
    assert (first == 0).all()
    assert torch.equal(third, before)


BAD = [
    ({"penalty": -0.1}, OptionError, r"penalty must be a finite.*at least 0, got -0\.1; 0 takes"),
    ({"penalty": float("inf")}, OptionError, r"penalty must be a finite.*got inf"),
    ({"penalty": "much"}, OptionTypeError, r"penalty must be a finite.*got 'much' \(str"),
    ({"penalty": True}, OptionTypeError, r"penalty must be .*got True \(bool"),
    ({"gamma": 0.0}, OptionError, r"gamma must be above 0, got 0\.0"),
    ({"regularizer": "l1"}, OptionError, r"regularizer must be one of 'group_lasso'.*got 'l1'"),
    ({"regularizer": 1}, OptionTypeError, r"regularizer must be one of .*got 1"),
    ({"metric": "full"}, OptionError, r"metric must be one of 'diagonal', 'plain', got 'full'"),
    ({"reweight": 1}, OptionTypeError, r"reweight must be True or False, got 1"),
    ({"groups": [(0, None)]}, OptionError, r"groups must have one entry for each of the 6"),
    ({"groups": [(5, None)] * 6}, OptionError, r"parameter 0: axis must be one of the 2 dim"),
    ({"groups": ["rows"] * 6}, OptionTypeError, r"parameter 0: "),
    (
        {"regularizer": "group_mcp", "gamma": 0.5},
        OptionError,
        r"got gamma=0\.5, eps=0\.05 and lr=0\.05; take .* above 1, an eps above 0\.1, or metric",
    ),
    (
        {"regularizer": "group_mcp", "gamma": 0.05, "metric": "plain"},
        OptionError,
        r"got gamma=0\.05, a metric of 1 and lr=0\.05; .* above 0\.05, a smaller lr",
    ),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD, ids=[str(b[0]) for b in BAD])
def test_bad_options_are_refused_before_anything_changes(bad, error, message):
    ours, params = made()
    train(ours, params, 2)
    group = {"params": [torch.nn.Parameter(torch.ones(2, 2)) for _ in range(6)], **bad}
    if "groups" not in bad:
        with pytest.raises(error, match=message):
            made(**bad)
    refuse(error, lambda: ours.add_param_group(group), ours, params, r"param group 1: .*" + message)
    kept = {name: ours.param_groups[0][name] for name in bad}
    ours.param_groups[0].update(bad)
    refuse(error, lambda: ours.step(), ours, params, r"param group 0: .*" + message)
    ours.param_groups[0].update(kept)
    train(ours, params, 1)


def test_a_learning_rate_too_large_for_mcp_is_refused_when_it_comes():
    ours, params = made(regularizer="group_mcp", gamma=4.0)
    train(ours, params, 1)
    ours.param_groups[0]["lr"] = 0.2
    refuse(OptionError, lambda: ours.step(), ours, params, r"gamma=4\.0, eps=0\.05 and lr=0\.2")
    ours.param_groups[0]["lr"] = torch.tensor(0.2)
    with pytest.raises(OptionError, match=r"take a gamma above 4"):
        ours.step()
    del ours.param_groups[0]["gamma"]
    with pytest.raises(OptionError, match="gamma was removed"):
        ours.step()


def test_optimizers_of_unknown_metric_are_refused():
    weight = torch.nn.Parameter(torch.ones(2, 2))
    base = torch.optim.NAdam([weight])
    with pytest.raises(OptionTypeError, match=r"SGD, RMSprop, Adam, AdamW .* of type NAdam"):
        ProximalOptimizer(base)
    with pytest.raises(OptionTypeError, match="type MemoryAugmented"):
        ProximalOptimizer(gradmem.MemoryAugmented(torch.optim.SGD([weight])))
    with pytest.raises(OptionTypeError, match=r"got <class 'torch.optim.sgd.SGD'>"):
        ProximalOptimizer(torch.optim.SGD)
    with pytest.raises(OptionError, match="differentiable=True is refused"):
        ProximalOptimizer(torch.optim.Adam([weight], differentiable=True))
    base = torch.optim.Adam([weight])
    base.step = lambda: None
    with pytest.raises(OptionError, match="the step of this Adam was replaced"):
        ProximalOptimizer(base)


def test_groups_that_do_not_fit_are_refused():
    weight, other = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(3))
    base = torch.optim.SGD([weight])
    with pytest.raises(OptionError, match=r"the optimizer's parameters, got 1 others, .*\(3,\)"):
        ProximalOptimizer(base, groups={other: Groups(0)})
    with pytest.raises(OptionTypeError, match="groups must be a mapping from parameters"):
        ProximalOptimizer(base, groups={weight: 0})
    with pytest.raises(OptionError, match="axis must be one of the 2 dimensions"):
        ProximalOptimizer(base, groups={weight: Groups(2)})
    assert "penalty" not in base.param_groups[0]
    complex_weight = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    with pytest.raises(OptionError, match=r"parameter 0: groups must be of real numbers"):
        ProximalOptimizer(torch.optim.Adam([complex_weight]))
