"""Generic tests, asked of SGD_CM, Adam_CM and AdamW_CM where they fit; and what is theirs alone.

Tests that look for gradients in the slots do not fit: momenta are there. In their place stands the
race against the twin, in test_critical_momenta.py.
"""

from __future__ import annotations

import inspect
import itertools

import pytest
import torch

import gradmem
import test_bad_input as bad_input
import test_contract as contract
import test_dtypes_and_shapes as types
import test_switched_off as off
import test_torch_table as table
from optimizers import (
    Info,
    assert_same,
    gradients,
    impls,
    parameters,
    refuse,
    snapshot,
    step_with,
    train,
)
from test_running_sum import relative_error


class CriticalInfo(Info):
    """A record of the table, without what these classes refuse."""

    refused = ("fused", "nesterov")

    def __init__(self, optim_cls, base_cls, extra=(), **base_defaults):
        super().__init__(optim_cls, base_cls, "mean", extra)
        self.base_defaults = base_defaults
        self.supported_impls = tuple(x for x in self.supported_impls if x not in self.refused)

    def _inputs(self, device, dtype=None):
        inputs = super()._inputs(device, dtype)
        for given in inputs:
            for option in self.refused:
                given.kwargs.pop(option, None)
        return inputs

    def make_base(self, params, **kwargs):
        return super().make_base(params, **{**self.base_defaults, **kwargs})


MOMENTS = {"betas": (0.8, 0.9), "eps": 1e-6}
DECOUPLED = {"weight_decay": 0.1, "decoupled_weight_decay": True}
INFOS = [
    CriticalInfo(
        gradmem.SGD_CM, torch.optim.SGD, [{"momentum": 0.8, "maximize": True}], momentum=0.9
    ),
    CriticalInfo(gradmem.Adam_CM, torch.optim.Adam, [MOMENTS, DECOUPLED]),
    CriticalInfo(gradmem.AdamW_CM, torch.optim.AdamW, [MOMENTS]),
]
each_optimizer = pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)

FITTING = [
    off.test_switched_off_is_the_torch_class,
    off.test_one_group_switched_off_beside_one_that_remembers,
    off.test_kappa_set_to_zero_gives_the_base_step_while_the_memory_lives_on,
    off.test_a_checkpoint_of_a_switched_off_optimizer_is_the_torch_class_s,
    off.test_sgd_without_memory_takes_sparse_gradients_as_torch_does,
    off.test_schedulers_drive_ours_as_they_drive_torch_s,
    table.test_foreach_and_fused_agree_with_the_loop,
    table.test_a_resumed_run_continues_bit_for_bit,
    table.test_the_torch_class_continues_from_our_checkpoint,
    table.test_through_the_torch_class_and_back_is_exact_or_refused,
    table.test_a_step_without_any_gradient_does_nothing,
    table.test_zero_grad_both_ways,
    table.test_maximize_is_minimize_of_the_negative,
    contract.test_it_is_its_torch_class,
    contract.test_gradients_are_unchanged,
    contract.test_the_state_is_allocated_once,
    contract.test_looking_at_the_memory_changes_nothing,
    contract.test_two_optimizers_share_nothing,
    contract.test_hooks_fire_once_and_the_closure_is_evaluated_once,
    contract.test_the_profiler_sees_a_step,
    contract.test_a_user_s_subclass_with_a_step_of_its_own,
    contract.test_a_step_under_no_grad_and_inference_mode,
    contract.test_which_groups_share_a_ledger,
    contract.test_a_copy_takes_further_groups_too,
    contract.test_an_empty_group_and_one_taken_away,
    contract.test_parameters_frozen_thawed_replaced_and_reset,
    contract.test_one_parameter_s_state_deleted_is_one_ledger_started_anew,
    contract.test_an_option_edited_in_a_group_takes_effect_at_the_next_step,
    contract.test_a_copy_continues_bit_for_bit_and_on_its_own,
    types.test_narrow_types_follow_float64,
    types.test_expanded_gradients,
    types.test_a_huge_but_finite_gradient_counts_as_infinite_and_is_not_stored,
    types.test_a_grad_scaler_hands_over_unscaled_gradients,
    types.test_in_scope_tensor_a_missing_gradient_leaves_the_memory_alone,
    types.test_a_sparse_gradient_is_refused_and_changes_nothing,
    types.test_a_sparse_parameter_is_refused,
    bad_input.test_an_option_that_is_fixed_cannot_be_edited,
    bad_input.test_a_removed_option_is_refused,
    bad_input.test_a_misspelt_option_is_refused,
    bad_input.test_a_misspelt_group_key_is_refused,
    bad_input.test_a_closure_that_cannot_be_called,
    bad_input.test_a_closure_that_calls_step_is_refused,
    bad_input.test_a_closure_that_raises_changes_nothing,
    bad_input.test_a_checkpoint_of_another_memory_is_refused,
    bad_input.test_a_corrupted_checkpoint_is_refused,
    bad_input.test_a_checkpoint_with_an_option_out_of_range_is_refused,
    bad_input.test_a_checkpoint_of_another_model_is_refused,
    bad_input.test_named_parameters_in_another_order_are_refused,
]


def variants(test, info):
    """The arguments a generic test is given for one class, as keyword arguments."""
    columns = []
    for mark in (mark for mark in test.pytestmark if mark.name == "parametrize"):
        names, values = mark.args
        names = [names] if isinstance(names, str) else list(names)
        if "info" not in names:
            rows = values if len(names) > 1 else [(value,) for value in values]
            columns.append([dict(zip(names, row, strict=True)) for row in rows])
    wanted = inspect.signature(test).parameters
    if "kwargs" in wanted:
        columns.append([{"kwargs": given.kwargs} for given in info.optim_inputs_func("cpu")])
    if "impl" in wanted and not any("impl" in column[0] for column in columns):
        columns.append([{"impl": impl} for impl in impls(info).values()])
    if "dtype" in wanted and not any("dtype" in column[0] for column in columns):
        columns.append([{"dtype": dtype} for dtype in types.DTYPES])
    every = 3 if {"kwargs", "dtype"} <= set(wanted) else 1  # enough, and all of each
    return itertools.islice(itertools.product(*columns), 0, None, every)


@pytest.mark.parametrize("test", FITTING, ids=lambda test: test.__name__.removeprefix("test_"))
@each_optimizer
def test_generic(info, test):
    given = [dict(itertools.chain(*map(dict.items, parts))) for parts in variants(test, info)]
    assert given
    for arguments in given:
        test(info, **arguments)


@each_optimizer
def test_goes_in_the_right_direction(info):
    """At a small rate; the memory makes these steps longer than those of the torch class."""
    for given in info.optim_inputs_func("cpu"):
        problem = table.Problem()
        optimizer = info.make(problem.params, **{**given.kwargs, "lr": 1e-3})
        before = problem.loss().item()
        for _ in range(20):
            optimizer.step(problem.closure(optimizer))
        assert (problem.loss().item() > before) == bool(given.kwargs.get("maximize"))


# What is refused ----------------------------------------------------------------------------------


@each_optimizer
def test_error_inputs_are_refused_with_the_stated_message(info):
    for error in info.optim_error_inputs_func("cpu", torch.float32):
        given = error.optimizer_error_input
        params = parameters() if given.params is None else given.params
        if "fused" not in given.kwargs:  # refused on its own
            with pytest.raises(error.error_type, match=error.error_regex):
                info.optim_cls(params, **given.kwargs)


def test_a_fused_kernel_is_refused_with_the_reason():
    info = next(info for info in INFOS if info.optim_cls is gradmem.SGD_CM)
    reason = "param group 0: fused=True is refused: torch's kernel makes the momentum and the step"
    with pytest.raises(gradmem.OptionError, match=reason):
        info.make(parameters(), fused=True)
    optimizer = info.make(params := parameters(), fused=False)
    train(optimizer, params, 2)
    group = {"params": parameters(seed=2), "fused": True}
    add = lambda: optimizer.add_param_group(group)  # noqa: E731
    refuse(gradmem.OptionError, add, optimizer, params, "param group 1: fused=True is refused")


def test_nesterov_is_refused_with_the_reason():
    with pytest.raises(TypeError, match="nesterov"):
        gradmem.SGD_CM(parameters(), nesterov=True)
    with pytest.raises(gradmem.OptionError, match="nesterov=True is refused: it would look ahead"):
        gradmem.SGD_CM([{"params": parameters(), "nesterov": True}])


# What is taken ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@each_optimizer
def test_a_tensor_lr_of_one_element_is_a_float_lr(info, shape):
    runs = []
    for lr in (0.01, torch.full(shape, 0.01, dtype=torch.float64)):
        params = parameters(torch.float64)
        optimizer = info.make(params, lr=lr, weight_decay=0.1)
        train(optimizer, params)
        runs.append(snapshot(optimizer, params))
    assert_same(runs[1], runs[0])


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_tensor_weight_decay_is_a_float_one(shape):
    runs = []
    for decay in (0.1, torch.full(shape, 0.1, dtype=torch.float64)):
        params = parameters(torch.float64)
        optimizer = gradmem.SGD_CM(params, weight_decay=decay)
        train(optimizer, params)
        runs.append(snapshot(optimizer, params))
    assert_same(runs[1], runs[0])


# What is stored -----------------------------------------------------------------------------------


def momenta(info, optimizer, params):
    key = "momentum_buffer" if info.base_cls is torch.optim.SGD else "exp_avg"
    return [optimizer.state[p][key].clone() for p in params]


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("dtype", types.DTYPES)
@each_optimizer
def test_every_type_holds_exactly_the_momenta(info, dtype, maximize):
    """Slot t is momentum t, of the gradients and not of their negatives; so are norms."""
    params = parameters(dtype)
    optimizer = types.make(info, params, dtype, capacity=9, maximize=maximize)
    norms = []
    for t, grads in enumerate(itertools.islice(gradients(params), 6)):
        step_with(optimizer, params, grads)
        sizes = [momentum.abs().double() for momentum in momenta(info, optimizer, params)]
        norms.append(sum(size.square().sum() for size in sizes) ** 0.5)
        for p, momentum in zip(params, momenta(info, optimizer, params), strict=True):
            stored = optimizer.state[p]["memory_slots"][t]
            assert_same(stored, -momentum if maximize else momentum)
    state = optimizer.state[params[0]]
    tolerance = {"rtol": 2e-3 if dtype == torch.float16 else 1e-5, "atol": 0.0}
    assert_same(state["memory_norm"][:6], torch.stack(norms), **tolerance)
    for p in params:
        state = optimizer.state[p]
        exact = state["memory_slots"].to(torch.promote_types(dtype, torch.float64)).sum(0)
        assert_same(state["memory_sum"].to(exact.dtype), exact, rtol=1e-6, atol=1e-6)
        assert state["memory_slots"].dtype == p.dtype


@each_optimizer
def test_a_checkpoint_of_the_torch_class_gives_its_momenta_and_an_empty_memory(info):
    params, copies = parameters(torch.float64), parameters(torch.float64)
    base, ours = info.make_base(params), info.make(copies, capacity=3)
    train(base, params)
    ours.load_state_dict(table.through_a_file(base.state_dict()))
    assert ours.memory_report().scopes[0].occupied == 0
    assert_same(snapshot(ours, copies)["state"], snapshot(base, params)["state"])
    grads = next(gradients(params, seed=5))
    step_with(base, params, [g.clone() for g in grads])
    step_with(ours, copies, grads)
    expected, close = momenta(info, base, params), {"rtol": 1e-12, "atol": 1e-12}
    assert_same(momenta(info, ours, copies), expected, **close)
    assert_same([ours.state[p]["memory_slots"][0] for p in copies], expected, **close)


@pytest.mark.parametrize("maximize", [False, True])
@each_optimizer
def test_a_recorder_sees_updates_along_the_gradients(info, maximize):
    params = parameters()
    optimizer = info.make(params, lr=0.0, maximize=maximize)
    with gradmem.Recorder(optimizer) as recorder:
        for size in (1.0, 2.0, 0.5):
            step_with(optimizer, params, [torch.full_like(p, size) for p in params])
    assert [round(record.cosine, 6) for record in recorder.records] == [1.0, 1.0, 1.0]


@each_optimizer
def test_bytes_are_as_foretold(info):
    params = parameters()
    optimizer = info.make(params, capacity=4)
    train(optimizer, params, 1)
    assert optimizer.memory_report().bytes == gradmem.memory_bytes(params, capacity=4).total


@pytest.mark.parametrize("lr", [0.01, 0.1])
@pytest.mark.parametrize("cls", [gradmem.Adam_CM, gradmem.AdamW_CM])
def test_the_first_step_is_lr_over_one_minus_beta1(cls, lr):
    """As documented: v has seen m^2 = ((1 - beta1) g)^2, and is not corrected for that."""
    (p,) = parameters(torch.float64, shapes=[(3,)])
    before = p.detach().clone()
    optimizer = cls([p], lr=lr, weight_decay=0.0)
    step_with(optimizer, [p], [torch.tensor([1.0, -2.0, 3.0]).double()])
    moved = torch.tensor([-10.0, 10.0, -10.0]).double() * lr
    assert_same(p.detach() - before, moved, rtol=1e-5, atol=0.0)


# What may go wrong with numbers -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (gradmem.Adam_CM, {"betas": (0.9, 0.999)}),
        (gradmem.AdamW_CM, {"betas": (0.5, 0.999)}),
        (gradmem.SGD_CM, {"momentum": 0.5}),
        (gradmem.SGD_CM, {"momentum": 0.99}),
    ],
    ids=str,
)
def test_the_sum_stays_exact_while_momenta_come_down_from_a_spike(cls, options):
    """Momenta are then far larger than the gradients they are ranked by."""
    worst = 0.0
    for policy in ("top_norm", "fifo"):
        (p,) = parameters(shapes=[(16,)])
        optimizer = cls([p], lr=0.0, capacity=10, decay=0.3, policy=policy, **options)
        for t, grads in enumerate(itertools.islice(gradients([p], spread=0.3), 900)):
            step_with(optimizer, [p], [grads[0] * (1e6 if t % 400 == 0 else 1.0)])
            worst = max(worst, relative_error(optimizer.state[p]))
    assert worst < 1e-5


def test_a_momentum_that_overflows_is_not_stored():
    """Gradients of 4e4 are finite in float16; their sum is not."""
    (p,) = parameters(torch.float16, shapes=[(3,)])
    optimizer = gradmem.SGD_CM([p], lr=0.0, momentum=0.9)
    for _ in range(4):
        step_with(optimizer, [p], [torch.full((3,), 4e4, dtype=torch.float16)])
    assert optimizer.state[p]["momentum_buffer"].isinf().all()
    assert optimizer.memory_report().scopes[0].occupied == 1
    assert optimizer.state[p]["memory_slots"].isfinite().all()
