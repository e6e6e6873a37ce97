"""The fused pass keeps the promises that the eager ones keep, and gives the same bits again."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import multiprocessing
import pickle
import threading
import warnings

import pytest
import torch

from fused_cases import CLASSES, assert_close, each_class, make, needs_kernels, pair, twins, watch
from gradmem import Recorder
from gradmem.memory import on_host
from gradmem.optim.state import store_of
from optimizers import (
    assert_same,
    gradients,
    memory_of,
    parameters,
    snapshot,
    step_with,
    train,
)

pytestmark = needs_kernels


@pytest.fixture
def threads():
    """Sets the number of threads; one again afterwards."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


# The same bits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_class
def test_any_number_of_threads_gives_the_same_bits(name, dtype, threads):
    results = []
    for count in (1, 2, 3, 7):
        threads(count)
        params = parameters(dtype, shapes=[(70_001,), (3, 5), (16_384,), (511,), (40_000,)])
        optimizer = make(name, params)
        train(optimizer, params, 4)
        results.append(snapshot(optimizer, params))
    for other in results[1:]:
        assert_same(other, results[0])


def through_a_file(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file)


@pytest.mark.parametrize("how", ["a file", "deepcopy", "pickle", "loaded in mid-run"])
@each_class
def test_a_copy_goes_on_bit_for_bit(name, how, monkeypatch):
    watch(monkeypatch)
    params = [*parameters(), *parameters(shapes=[(600,)])]
    optimizer = make(name, params)
    train(optimizer, params, 5)
    if how in ("a file", "loaded in mid-run"):
        others = twins(params)
        other = make(name, others)
        if how == "loaded in mid-run":
            train(other, others, 3, seed=9)
            with torch.no_grad():
                for p, q in zip(params, others, strict=True):
                    q.copy_(p)
        other.load_state_dict(through_a_file(optimizer.state_dict()))
    else:
        copier = copy.deepcopy if how == "deepcopy" else lambda x: pickle.loads(pickle.dumps(x))
        other, others = copier((optimizer, params))
    for one, its in ((optimizer, params), (other, others)):
        train(one, its, 5, seed=2)
    assert_same(snapshot(other, others), snapshot(optimizer, params))


@pytest.mark.parametrize("first", [True, None])
@each_class
def test_a_checkpoint_goes_from_eager_to_fused_and_back(name, first):
    params = parameters(shapes=[(600,), (2, 3), ()])
    optimizer = make(name, params, fused=first)
    train(optimizer, params, 5)
    results = []
    for fused in (first, not first or None):
        others = twins(params)
        other = make(name, others, fused=fused)
        other.load_state_dict(through_a_file(optimizer.state_dict()))
        other.param_groups[0]["fused"] = fused
        train(other, others, 5, seed=2)
        results.append((other, others))
    (one, its), (other, others) = results
    assert_close(one, other, its, others, 1e-5)


# Promises ----------------------------------------------------------------------------------------


@each_class
def test_gradients_stay_as_they_are(name):
    params = parameters(shapes=[(600,), (2, 3)])
    optimizer = make(name, params, maximize=True)
    for seed in range(3):
        grads = next(gradients(params, seed))
        before = [grad.clone() for grad in grads]
        step_with(optimizer, params, grads)
        assert all(p.grad is grad for p, grad in zip(params, grads, strict=True))
        assert_same(grads, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0, 1e25])
@each_class
def test_a_bad_gradient_moves_the_parameters_and_not_the_memory(name, bad):
    params = parameters(shapes=[(600,), (2, 3)])
    ours, theirs, copies = pair(name, params)
    train(ours, params, 4)
    train(theirs, copies, 4)
    before, held = memory_of(ours, params), [p.detach().clone() for p in params]
    grads = [torch.zeros_like(p) for p in params]
    grads[0][7] = bad
    step_with(ours, params, grads)
    step_with(theirs, copies, [grad.clone() for grad in grads])
    assert_same(memory_of(ours, params), before)
    assert not torch.equal(params[1].detach(), held[1])
    if bad == 1e25:  # its square is infinite, and what is then NaN is a matter of rounding
        with torch.no_grad():
            params[0][7] = copies[0][7] = 0.0
    for p, q in zip(params, copies, strict=True):
        assert_same(p.detach(), q.detach(), rtol=1e-5, atol=1e-5)


@each_class
def test_infinite_parameters_do_as_with_the_base(name):
    params = parameters(shapes=[(5,)])
    with torch.no_grad():
        params[0][2] = math.inf
    ours, theirs, copies = pair(name, params, weight_decay=0.0)
    train(ours, params, 3)
    train(theirs, copies, 3)
    assert_close(ours, theirs, params, copies, 1e-5)


@each_class
def test_the_recorder_sees_the_same_and_changes_nothing(name):
    seen, results = [], []
    for fused, recorded in ((True, True), (True, False), (None, True)):
        params = parameters(shapes=[(600,), (2, 3), ()])
        optimizer = make(name, params, fused=fused, scope="tensor")
        recorder = Recorder(optimizer) if recorded else None
        train(optimizer, params, 8)
        results.append(snapshot(optimizer, params))
        if recorder is not None:
            seen.append(recorder)
    assert_same(results[0], results[1])
    one, other = (recorder.records for recorder in seen)
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        for key, number in dataclasses.asdict(a).items():
            other = getattr(b, key)
            same = number == other if isinstance(number, (str, tuple)) or number is None else None
            assert same or number == pytest.approx(other, rel=1e-4, abs=1e-6, nan_ok=True), key


@each_class
def test_autograd_notices_that_parameters_changed(name):
    p = torch.nn.Parameter(torch.ones(5))
    optimizer = make(name, [p])
    loss = (p * p).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@each_class
def test_a_gradient_scaler(name):
    params = parameters(shapes=[(300,), (4,)])
    copies = twins(params)
    ours, theirs = make(name, params), make(name, copies)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for seed in range(5):
        grads = next(gradients(params, seed))
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad * scaler.get_scale()
        if seed == 2:
            params[0].grad[3] = math.inf
        else:
            step_with(theirs, copies, [grad.clone() for grad in grads])
        scaler.scale(torch.ones(()))  # it wants to have scaled something
        scaler.step(ours)
        scaler.update()
    assert_same(snapshot(ours, params), snapshot(theirs, copies))


@each_class
def test_closures_are_called_and_hooks_run_once(name):
    params = parameters(shapes=[(300,)])
    optimizer, calls = make(name, params), []

    def closure():
        calls.append("closure")
        optimizer.zero_grad()
        loss = params[0].square().sum()
        loss.backward()
        return loss

    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    assert optimizer.step(closure) > 0
    assert calls == ["before", "closure", "after"]
    report = optimizer.memory_report().scopes[0]
    assert (report.occupied, report.steps) == (1, 1)


def drift(name, steps, monkeypatch):
    """Worst error of the running sum, and how often it was made anew, around spikes of 1e4."""
    from gradmem.memory import slots as storage

    renewals, renew = [], storage.renew
    monkeypatch.setattr(storage, "renew", lambda stores: (renewals.append(1), renew(stores)))
    generator = torch.Generator().manual_seed(1)
    params = [torch.nn.Parameter(torch.zeros(size)) for size in (16, 3)]
    optimizer = make(name, params, lr=0.0, policy="fifo", capacity=5, weight_decay=0.0)
    worst = 0.0
    for t in range(steps):
        size = 1e4 if t % 97 == 0 else 1.0
        grads = [torch.randn(p.shape, generator=generator) * size for p in params]
        if t % 5 == 3:
            grads[1] = None
        step_with(optimizer, params, grads)
        if t % 97 in (0, 5, 6, 40):
            for store in (store_of(optimizer.state[p]) for p in params):
                exact = store.slots.double().sum(dim=0)
                worst = max(worst, float((store.total - exact).norm() / exact.norm()))
    return worst, len(renewals)


@pytest.mark.parametrize("name", ["SGD_C", "Adam_CM"])
def test_the_sum_is_made_anew_and_stays_right(name, monkeypatch):
    worst, renewals = drift(name, 2500, monkeypatch)
    assert worst < 1e-5
    assert renewals > 20


def test_without_renewals_it_would_not(monkeypatch):
    monkeypatch.setattr(on_host, "TOLERANCE", math.inf)
    worst, renewals = drift("SGD_C", 1000, monkeypatch)
    assert worst > 1e-4
    assert renewals == 0


def test_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in CLASSES:
            train(make(name, params := parameters()), params, 2)


# Threads and processes ---------------------------------------------------------------------------


def step_in_child(queue):
    torch.set_num_threads(1)
    params = parameters(shapes=[(100_000,)])
    optimizer = make("Adam_C", params)
    train(optimizer, params, 2)
    queue.put(params[0].detach().double().sum().item())


def test_a_process_forked_after_threads_were_used_can_step():
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system does not fork")
    torch.set_num_threads(2)
    try:
        params = parameters(shapes=[(100_000,)])
        train(make("Adam_C", params), params, 2)
    finally:
        torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=step_in_child, args=(queue,), daemon=True)
    child.start()
    child.join(30)
    alive = child.is_alive()
    if alive:
        child.kill()
    assert not alive
    assert child.exitcode == 0
    assert queue.get() == params[0].detach().double().sum().item()


def test_optimizers_in_threads_of_their_own():
    def work(number):
        params = parameters(shapes=[(40_000,), (300,)], seed=number)
        optimizer = make(list(CLASSES)[number], params)
        train(optimizer, params, 6, seed=number)
        results[number] = snapshot(optimizer, params)

    results = {}
    for number in range(6):
        work(number)
    alone, results = results, {}
    workers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert_same(results, alone)
