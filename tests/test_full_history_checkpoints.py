"""SAG, SAGA and SVRG: saving, loading, copying, resuming; schedulers, hooks and scalers."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradmem import SAG, SAGA, SVRG, CheckpointError
from optimizers import assert_differ, assert_same, parameters, refuse, snapshot

TERMS = 5
OPTIONS = {SAG: {"terms": TERMS}, SAGA: {"terms": TERMS}, SVRG: {"period": 4}}
each_class = pytest.mark.parametrize("cls", OPTIONS, ids=lambda cls: cls.__name__)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])


def make(cls, dtype=torch.float32, seed=0, **options):
    """Parameters in two groups, one with options of its own, and their optimizer."""
    params = parameters(dtype, seed=seed)
    groups = [{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.1, "lr": 0.02}]
    return params, cls(groups, lr=0.01, **{**OPTIONS[cls], **options})


def advance(params, optimizer, steps):
    """Steps of the numbers given: gradients depend on the number and on the parameters."""
    for t in steps:
        index = 3 * t % TERMS

        def one(index=index, t=t):
            generator = torch.Generator().manual_seed(index)
            for i, p in enumerate(params):
                noise = torch.randn(p.shape, generator=generator, dtype=p.dtype)
                p.grad = None if (index + i) % 4 == 0 else noise + 0.1 * p.detach()
            return t

        if isinstance(optimizer, SVRG):
            loss = optimizer.step(one, full_closure=one)
        else:
            loss = optimizer.step(one, index=index)
        assert loss == t


def through_file(content):
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file)  # the default: weights only


@each_dtype
@each_class
def test_resume_is_bit_exact_at_every_step(cls, dtype):
    params, optimizer = make(cls, dtype)
    saved = []
    for t in range(2 * TERMS + 1):
        saved.append(through_file([[p.detach() for p in params], optimizer.state_dict()]))
        advance(params, optimizer, [t])
    expected = snapshot(optimizer, params)
    for t, (values, state_dict) in enumerate(saved):
        others, other = make(cls, dtype, seed=t)
        for p, value in zip(others, values, strict=True):
            p.data.copy_(value)
        other.load_state_dict(state_dict)
        assert_same(other.state_dict(), state_dict, "types are those saved")
        advance(others, other, range(t, 2 * TERMS + 1))
        assert_same(snapshot(other, others), expected, f"resumed at {t}")


@each_class
def test_a_copy_by_any_means_goes_on_by_itself(cls):
    params, optimizer = make(cls)
    advance(params, optimizer, range(7))
    copies = [
        copy.deepcopy((params, optimizer)),
        pickle.loads(pickle.dumps((params, optimizer))),
    ]
    fresh = make(cls, seed=3)
    for p, value in zip(fresh[0], params, strict=True):
        p.data.copy_(value.detach())
    fresh[1].load_state_dict(optimizer.state_dict())
    before = snapshot(optimizer, params)
    for others, other in [*copies, fresh]:
        advance(others, other, range(7, 20))
        assert_same(snapshot(optimizer, params), before, "the original")
    advance(params, optimizer, range(7, 20))
    for others, other in [*copies, fresh]:
        assert_same(snapshot(other, others), snapshot(optimizer, params))


@each_class
def test_a_copy_is_saved_as_the_original_is(cls):
    _, optimizer = make(cls)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        _, fresh = make(cls)
        for one in (other, fresh):
            one.add_param_group({"params": parameters(shapes=[(2,)])})
        fresh.load_state_dict(other.state_dict())
        assert fresh.defaults == other.defaults == optimizer.defaults


def test_a_copy_keeps_what_no_group_holds():
    params, _ = make(SAGA)
    optimizer = SAGA(params, terms=TERMS, table_dtype=torch.float16, max_bytes=10_000)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert (other._table_dtype, other._max_bytes) == (torch.float16, 10_000)


@each_class
def test_a_checkpoint_brings_its_options_and_leaves_out_none(cls):
    params, optimizer = make(cls)
    advance(params, optimizer, range(2))
    early = copy.deepcopy(optimizer.state_dict())
    advance(params, optimizer, range(2, 3))
    state_dict = copy.deepcopy(optimizer.state_dict())
    state_dict["param_groups"][0]["lr"] = 0.7
    for given in (early, state_dict):
        del given["param_groups"][1]["maximize"]
    optimizer.param_groups[1]["maximize"] = True
    before = snapshot(optimizer, params)
    for given in (early, state_dict):  # the first leaves nothing behind that disturbs the second
        optimizer.load_state_dict(given)
    assert_same(snapshot(optimizer, params), before)
    assert optimizer.param_groups[0]["lr"] == 0.7
    assert optimizer.param_groups[1]["maximize"] is True


def change_state(key, change):
    def apply(state_dict):
        for entry in state_dict["state"].values():
            entry[key] = change(entry[key])

    return apply


def change_group(**options):
    return lambda state_dict: state_dict["param_groups"][1].update(options)


MISFITS = [
    (
        SAGA,
        change_group(terms=6),
        r"group 1 of the checkpoint: terms is 6, but.*with terms=5; make",
    ),
    (SVRG, change_group(period=6), r"period is 6, but this optimizer was made with period=4"),
    (SAGA, change_group(lr=-1.0), r"param group 1 of the checkpoint: lr must be a finite number"),
    (SAG, change_group(divide_by="n"), r"divide_by must be one of 'seen', 'terms', got 'n'"),
    (
        SAGA,
        change_group(momentum=0.9),
        r"unknown key 'momentum'; .*is it of another optimizer than",
    ),
    (
        SAGA,
        change_state("history_table", lambda x: x[:4]),
        r"history_table is \(4, 3, 4\) of .*but",
    ),
    (
        SAGA,
        change_state("history_table", lambda x: x.half()),
        r"of torch.float16, but \(5, 3, 4\) ",
    ),
    (SAG, change_state("history_sum", lambda x: x.float()), r"history_sum is .*float32, but"),
    (
        SAG,
        change_state("history_steps", lambda x: 3),
        r"history_steps is int, but \(\) of torch.int",
    ),
    (SVRG, change_state("snapshot_point", lambda x: x[..., None]), r"\(3, 4, 1\) of torch.float32"),
    (SAG, lambda sd: sd["state"][0].pop("history_seen"), r"parameter 0 .* its state has \['hist"),
    (SVRG, lambda sd: sd["state"][0].update(momentum=1), r"\['momentum', 'snapshot_age'.*another"),
]


@pytest.mark.parametrize(("cls", "change", "sentence"), MISFITS)
def test_a_checkpoint_that_does_not_fit_is_refused_and_nothing_changed(cls, change, sentence):
    params, optimizer = make(cls)
    advance(params, optimizer, range(6))
    state_dict = copy.deepcopy(optimizer.state_dict())
    advance(params, optimizer, range(6, 8))
    change(state_dict)
    load = lambda: optimizer.load_state_dict(state_dict)  # noqa: E731
    refuse(CheckpointError, load, optimizer, params, sentence)
    advance(params, optimizer, range(8, 12))


@each_class
def test_checkpoints_of_other_optimizers_are_refused(cls):
    params, optimizer = make(cls)
    advance(params, optimizer, range(6))
    for other in (torch.optim.SGD, torch.optim.Adam):
        groups = [{"params": params[:2]}, {"params": params[2:]}]
        foreign = other(groups, lr=0.1).state_dict()
        load = lambda foreign=foreign: optimizer.load_state_dict(foreign)  # noqa: E731
        refuse(CheckpointError, load, optimizer, params, "is it of another optimizer than")
    alone = cls(params[:2], **OPTIONS[cls]).state_dict()
    load = lambda: optimizer.load_state_dict(alone)  # noqa: E731
    refuse(ValueError, load, optimizer, params, "different number of parameter groups")


@each_class
def test_integers_of_numpy_are_saved_as_plain_ones(cls):
    ((name, value),) = OPTIONS[cls].items()
    _, optimizer = make(cls, **{name: np.int64(value)})
    optimizer.add_param_group({"params": parameters(shapes=[(2,)]), name: np.int32(value)})
    groups = through_file(optimizer.state_dict())["param_groups"]
    assert [type(group[name]) for group in groups] == [int] * 3


def test_named_parameters_in_another_order_are_refused():
    named = [("a", torch.nn.Parameter(torch.zeros(2))), ("b", torch.nn.Parameter(torch.ones(2)))]
    state_dict = SAGA(named, terms=2).state_dict()
    optimizer = SAGA(named[::-1], terms=2)
    with pytest.raises(CheckpointError, match=r"in another order: number 0 is 'a' there and 'b'"):
        optimizer.load_state_dict(state_dict)


# What drives an optimizer ------------------------------------------------------------------------


@each_class
def test_a_scheduler_sets_the_learning_rate(cls):
    params, optimizer = make(cls)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))
    expected_params, expected = make(cls)
    for t in range(8):
        advance(params, optimizer, [t])
        scheduler.step()
        for group, lr in zip(expected.param_groups, (0.01, 0.02), strict=True):
            group["lr"] = lr / (1 + t)
        advance(expected_params, expected, [t])
    assert_same([p.detach() for p in params], [p.detach() for p in expected_params])
    assert optimizer.param_groups[1]["initial_lr"] == 0.02
    _, other = make(cls)
    other.load_state_dict(through_file(optimizer.state_dict()))
    assert other.param_groups[1]["lr"] == 0.02 / 9


@each_class
def test_a_tensor_learning_rate_is_a_learning_rate(cls):
    results = []
    for lr in (0.0625, torch.tensor(0.0625), torch.tensor([0.0625])):
        params = parameters()
        optimizer = cls(params, lr=lr, weight_decay=0.1, **OPTIONS[cls])
        advance(params, optimizer, range(6))
        results.append([p.detach() for p in params])
    assert_same(results[1:], [results[0]] * 2)


@each_class
def test_hooks_fire_once_a_step(cls):
    params, optimizer = make(cls)
    fired = []
    everywhere = [
        register_optimizer_step_pre_hook(lambda *_: fired.append("global")),
        optimizer.register_step_pre_hook(lambda *_: fired.append("pre")),
        optimizer.register_step_post_hook(lambda *_: fired.append("post")),
    ]
    try:
        advance(params, optimizer, range(3))
    finally:
        for handle in everywhere:
            handle.remove()
    assert fired == ["global", "pre", "post"] * 3
    fired.clear()
    optimizer.register_load_state_dict_pre_hook(lambda *_: fired.append("before"))
    optimizer.register_load_state_dict_post_hook(
        lambda one: fired.append(set(one.state) == set(params))
    )
    optimizer.load_state_dict(optimizer.state_dict())
    assert fired == ["before", True]  # the state is back when the user's hook sees it


def test_a_gradient_scaler_skips_a_step_with_inf_and_hands_over_the_index():
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = SAGA([p], lr=0.5, terms=2)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for slope, expected in ((torch.inf, 0.0), (3.0, -1.5)):
        optimizer.zero_grad()
        scaler.scale((p * slope).sum()).backward()
        scaler.step(optimizer, index=1)
        scaler.update()
        assert_same(p.detach(), torch.full((3,), expected))
    assert optimizer.state[p]["history_table"][1].tolist() == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("cls", [SAG, SAGA])
def test_the_order_of_groups_and_memory_format_of_a_parameter_do_not_matter(cls):
    image = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    results = []
    for format in (torch.contiguous_format, torch.channels_last):
        p = torch.nn.Parameter(image.clone().contiguous(memory_format=format))
        optimizer = cls([p], lr=0.1, terms=3)
        for t in range(6):
            p.grad = (p.detach() * (t % 3)).contiguous(memory_format=format)
            optimizer.step(index=t % 3)
        results.append(p.detach())
    assert_same(results[1].contiguous(), results[0])
    assert_differ(results[0], image)
