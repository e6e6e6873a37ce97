"""What holds for every sequence of gradients, whatever the options; hypothesis seeks others."""

from __future__ import annotations

import math

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import gradmem

SETTINGS = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
shapes = st.lists(
    st.lists(st.integers(0, 3), max_size=3).map(tuple), min_size=1, max_size=3
).filter(lambda some: any(math.prod(shape) > 0 for shape in some))
options = st.fixed_dictionaries(
    {
        "capacity": st.integers(1, 6),
        "decay": st.one_of(st.sampled_from([0.0, 0.7, 1.0]), st.floats(0.01, 1.0)),
        "aggregate": st.sampled_from(["mean", "sum", "mid"]),
        "kappa": st.floats(-2, 2).filter(lambda k: abs(k) > 0.01),
        "policy": st.sampled_from(["top_norm", "bottom_norm", "fifo"]),
        "scope": st.sampled_from(["model", "group", "tensor"]),
        "norm": st.sampled_from(["l2", "sum"]),
        "max_age": st.one_of(st.none(), st.integers(1, 8)),
    }
)
# A step is a seed and a scale for each tensor: 0 is a zero gradient, None is no gradient.
steps = st.lists(
    st.tuples(
        st.integers(0, 2**31),
        st.lists(
            st.sampled_from([None, 0.0, 0.1, 1.0, 1.0, 30.0, math.nan]), min_size=3, max_size=3
        ),
    ),
    min_size=1,
    max_size=25,
)


def start(sizes: list[tuple[int, ...]]) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(size, dtype=torch.float64)) for size in sizes]


def set_gradients(params: list[torch.nn.Parameter], step: tuple[int, list[float | None]]) -> None:
    generator = torch.Generator().manual_seed(step[0])
    for p, scale in zip(params, step[1], strict=False):
        noise = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        p.grad = None if scale is None else noise * scale


def ledgers(optimizer: gradmem.MemoryOptimizer) -> dict[str, dict[str, Tensor]]:
    """A copy of every ledger, by the place of its numbers in memory."""
    found = {}
    for state in optimizer.state.values():
        if "memory_birth" in state:
            found[state["memory_priority"].data_ptr()] = {
                key: value.clone() for key, value in state.items() if key.startswith("memory_")
            }
    return found


@SETTINGS
@given(shapes, options, steps)
def test_what_a_memory_may_do(sizes, chosen, sequence) -> None:
    params = start(sizes)
    optimizer = gradmem.SGD_C(params, lr=0.01, **chosen)
    before: dict = {}
    for step in sequence:
        set_gradients(params, step)
        optimizer.step()
        after = ledgers(optimizer)
        for key, ledger in after.items():
            check_ledger(before.get(key), ledger, chosen)
        before = after
    for p in params:
        state = optimizer.state.get(p, {})
        if "memory_slots" in state:
            assert torch.isfinite(state["memory_slots"]).all()
            exact = state["memory_slots"].sum(dim=0)
            torch.testing.assert_close(state["memory_sum"], exact, rtol=1e-11, atol=1e-11)
            empty = state["memory_birth"] == 0
            assert (state["memory_slots"][empty] == 0).all()


def check_ledger(before: dict | None, after: dict, chosen: dict) -> None:
    births = after["memory_birth"][after["memory_birth"] > 0]
    assert len(births) <= chosen["capacity"]
    assert len(births.unique()) == len(births), "two gradients of one step"
    steps, accepted, oldest, _ = after["memory_counters"].tolist()
    assert accepted <= steps
    assert (after["memory_norm"][after["memory_birth"] > 0] > 0).all()
    if chosen["max_age"] is not None:
        assert oldest <= chosen["max_age"]
        # A gradient may still be held that is dropped before it would be used too old.
        assert ((steps + 1 - births) <= chosen["max_age"]).all()
    if before is None:
        return
    entered = after["memory_birth"] != before["memory_birth"]
    assert entered.sum() <= 1, "a step touches one slot at the most"
    full = bool((before["memory_birth"] > 0).all())
    if chosen["policy"] == "top_norm" and chosen["max_age"] is None and full and entered.any():
        assert after["memory_norm"][entered].item() > before["memory_priority"].min().item()
        # Exactly: the first of the smallest went.
        assert int(entered.to(torch.int64).argmax()) == int(before["memory_priority"].argmin())


@SETTINGS
@given(shapes, options, steps)
def test_the_update_is_the_stated_combination(sizes, chosen, sequence) -> None:
    params = start(sizes)
    optimizer = gradmem.SGD_C(params, lr=1.0, **chosen)
    for step in sequence:
        set_gradients(params, step)
        expected = [combination(optimizer, p, chosen) for p in params]
        old = [p.detach().clone() for p in params]
        optimizer.step()
        for p, start_value, update in zip(params, old, expected, strict=True):
            if p.grad is not None and torch.isfinite(update).all():
                moved = start_value - p.detach()
                torch.testing.assert_close(moved, update, rtol=1e-10, atol=1e-10)
            with torch.no_grad():
                p.zero_()


def combination(optimizer: gradmem.MemoryOptimizer, p: Tensor, chosen: dict) -> Tensor:
    """The formula of the documentation, from the slots themselves."""
    if p.grad is None:
        return torch.zeros(())
    # A ledger may hold gradients from before this tensor had one; they are zero for it.
    ledger = next(
        (
            optimizer.state[q]
            for q in (p, *optimizer.param_groups[0]["params"])
            if "memory_birth" in optimizer.state.get(q, {})
            and (q is p or chosen["scope"] != "tensor")
        ),
        None,
    )
    n = 0 if ledger is None else int((ledger["memory_birth"] > 0).sum())
    if n == 0:
        return p.grad
    own = optimizer.state.get(p, {})
    stored = own["memory_slots"].sum(dim=0) if "memory_slots" in own else torch.zeros_like(p.grad)
    kappa = chosen["kappa"]
    if chosen["aggregate"] == "mean":
        return (p.grad + kappa * stored) / (n + 1)
    combined = p.grad + kappa * stored / n
    return combined / 2 if chosen["aggregate"] == "mid" else combined


@SETTINGS
@given(
    st.integers(1, 8),
    st.floats(0.3, 0.97),
    st.lists(st.floats(1.0, 50.0), min_size=30, max_size=120),
)
def test_ages_obey_the_bound(capacity: int, decay: float, norms: list[float]) -> None:
    """All norms in [m, M]: age <= C + ceil(ln(M / m) / ln(1 / decay))."""
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = gradmem.SGD_C([p], lr=0.0, capacity=capacity, decay=decay)
    bound = capacity + math.ceil(math.log(max(norms) / min(norms)) / math.log(1 / decay))
    for norm in norms:
        p.grad = torch.full((1,), norm, dtype=torch.float64)
        optimizer.step()
        report = optimizer.memory_report().scopes[0]
        assert report.oldest_used <= bound
