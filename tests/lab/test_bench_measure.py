"""What `gradmem bench` measures and how: bytes, peaks, turns, statistics, sets."""

import gc
import itertools
import math
import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import gradmem
from gradmem.lab.bench import measure, memory, sets, turns
from gradmem.lab.bench.contestants import CONDITIONS, CONTESTANTS, OURS, REFERENCE, Entry, entries
from gradmem.lab.bench.measure import Settings, _check_condition, bytes_per_element
from gradmem.lab.bench.ratios import Ratio, interval_rank, paired

CPU = torch.device("cpu")


def parameters(*sizes):
    made = [nn.Parameter(torch.ones(size)) for size in sizes]
    for p in made:
        p.grad = torch.ones_like(p)
    return made


# Statistics --------------------------------------------------------------------------------------


def test_medians_of_ratios_are_paired_by_round():
    """The machine is ten times slower in every other round: the ratio is 2 in each."""
    theirs = [1.0, 10.0] * 4
    assert paired([2 * t for t in theirs], theirs) == Ratio(2.0, 2.0, 2.0)


def test_the_interval_is_of_order_statistics():
    ratios = [float(i) for i in range(1, 16)]
    assert paired(ratios[::-1], [1.0] * 15) == Ratio(8.0, 4.0, 12.0)


@pytest.mark.parametrize("n", [6, 7, 8, 9, 15, 20, 50, 101])
def test_the_interval_holds_the_median_often_enough_and_is_the_shortest_that_does(n):
    def missed(rank):  # P(fewer than `rank` of n fair coins) on either side
        return 2 * sum(math.comb(n, i) for i in range(rank)) / 2**n

    rank = interval_rank(n)
    assert missed(rank) <= 0.05 < missed(rank + 1)


def test_too_few_rounds_have_no_interval():
    with pytest.raises(ValueError, match="at least 6 values, got 5"):
        interval_rank(5)


@pytest.mark.parametrize(
    ("ratio", "said"),
    [(Ratio(1.5, 1.25, 2.0), "1.50 (1.25-2.00)"), (Ratio(22.04, 20.0, 25.0), "22.0 (20.0-25.0)")],
)
def test_a_ratio_in_a_cell(ratio, said):
    assert str(ratio) == said


# Turns -------------------------------------------------------------------------------------------


class Named:
    """As an optimizer that writes down that it has stepped."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def step(self):
        self.log.append(self.name)


def test_everybody_steps_there_and_back_and_the_first_changes():
    log, ticks = [], itertools.count()

    def clock(step):
        step()
        return next(ticks)

    times = turns.take_turns([Named(name, log) for name in "abc"], rounds=2, clock=clock)
    assert "".join(log) == "abccba" + "bcaacb"
    assert times == [[(0, 5), (8, 9)], [(1, 4), (6, 11)], [(2, 3), (7, 10)]]


def test_the_collector_rests_while_times_are_taken_and_is_back_after_an_error():
    seen = []

    def clock(step):
        seen.append(gc.isenabled())
        raise RuntimeError

    with pytest.raises(RuntimeError):
        turns.take_turns([Named("a", [])], 1, clock)
    assert seen == [False]
    assert gc.isenabled()


# Bytes -------------------------------------------------------------------------------------------


class Allocating(torch.optim.SGD):
    """Allocates and releases in a step what it is told to, in this order."""

    changes: tuple[int, ...] = ()

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        held = [torch.empty(size, dtype=torch.uint8) for size in self.changes]
        del held


class Replacing(torch.optim.SGD):
    """Keeps one buffer, which every step replaces by a new one."""

    buffer = None

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        self.buffer = None
        self.buffer = torch.empty(1_000_000, dtype=torch.uint8)


def test_the_peak_of_a_step_that_allocates_nothing():
    params = parameters(1000)
    optimizer = torch.optim.SGD(params)
    optimizer.step()
    assert memory.step_bytes(optimizer, CPU) == 0


def test_the_peak_sees_what_lives_at_once():
    optimizer = Allocating(parameters(10))
    optimizer.changes = (300_000, 200_000)
    assert memory.step_bytes(optimizer, CPU) == 500_000


def test_the_peak_does_not_see_what_takes_the_place_of_what_went():
    optimizer = Replacing(parameters(10))
    optimizer.step()
    assert memory.step_bytes(optimizer, CPU) == 0
    assert memory.held_bytes(optimizer) == 1_000_000


def test_the_peak_sees_temporaries_inside_operators():
    """foreach Adam makes at least one list as large as all parameters."""
    params = parameters(50_000, 50_000)
    fused, foreach = torch.optim.Adam(params, fused=True), torch.optim.Adam(params, foreach=True)
    for optimizer in (fused, foreach):
        optimizer.step()
    assert memory.step_bytes(fused, CPU) < 1000
    assert memory.step_bytes(foreach, CPU) >= 400_000


def test_the_profiler_writes_nothing_and_what_others_write_is_passed_on(capfd):
    class Talking(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            import os

            os.write(2, b"a word from a library\n")

    memory.step_bytes(Talking(parameters(1)), CPU)
    assert capfd.readouterr().err == "a word from a library\n" * 2


def test_state_counts_a_shared_tensor_once_and_no_parameter():
    params = parameters(100, 100)
    optimizer = torch.optim.SGD(params)
    shared = torch.zeros(50)
    for p in params:
        optimizer.state[p] = {"map": shared, "part": shared[:10], "own": [p.data, p.grad]}
    assert memory.state_bytes(optimizer) == 200


@dataclass(slots=True)
class Buffers:
    """As an optimizer may keep its working memory, deep inside."""

    parts: list[torch.Tensor]


def test_buffers_an_optimizer_keeps_are_held_but_no_state():
    params = parameters(100)
    optimizer = torch.optim.SGD(params)
    optimizer.plan = {"first": (Buffers([torch.zeros(50)]), params[0].grad)}
    optimizer.plan["itself"] = optimizer.plan
    assert memory.held_bytes(optimizer) == memory.held_bytes(optimizer, "cpu") == 200
    assert memory.held_bytes(optimizer, "cuda") == 0
    assert memory.state_bytes(optimizer) == 0


@pytest.mark.parametrize("name", ["adam_c", "sgd_c", "adam_cm"])
def test_what_an_optimizer_of_ours_holds_is_what_the_library_says(name):
    params = parameters(300, (20, 30))
    optimizer = CONTESTANTS[name].build(params, capacity=4)
    optimizer.step()
    base = {"adam_c": 2, "sgd_c": 0, "adam_cm": 2}[name] * 900 * 4
    steps = 8 if base else 0  # two step counts
    expected = gradmem.memory_bytes(params, 4).total + base + steps
    assert memory.state_bytes(optimizer) == expected
    assert memory.held_bytes(optimizer) >= expected


def test_a_small_parameter_tells_what_a_large_one_costs():
    assert bytes_per_element(Entry(CONTESTANTS["adam"]), torch.float32, CPU) == pytest.approx(
        8, abs=0.01
    )
    half = bytes_per_element(Entry(CONTESTANTS["adam"]), torch.bfloat16, CPU)
    assert half == pytest.approx(4, abs=0.01)


# Contestants -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTESTANTS)
def test_every_contestant_can_step(name):
    contestant = CONTESTANTS[name]
    if contestant.missing:
        pytest.skip(contestant.missing)
    params = parameters((8, 8), 8)
    contestant.build(params).step()
    assert not torch.equal(params[0], torch.ones(8, 8))


@pytest.mark.parametrize("name", [n for n, c in CONTESTANTS.items() if c.module == OURS])
def test_conditions_are_what_they_are_called(name):
    for entry in entries([name], [3]):
        optimizer = entry.build(parameters(5, 2))
        for _ in range(entry.warm_up):
            optimizer.step()
        before = optimizer.memory_report().scopes[0]
        for _ in range(5):
            optimizer.step()
        after = optimizer.memory_report().scopes[0]
        changed = round(after.accepted_share * after.steps - before.accepted_share * before.steps)
        assert changed == {"keeps": 0, "replaces": 5}[entry.condition]
        assert after.occupied == 3


def test_a_condition_that_does_not_hold_is_no_result():
    keeps = Entry(CONTESTANTS["sgd_c"], "keeps", {"capacity": 3})
    _check_condition(keeps, 0.0)
    with pytest.raises(RuntimeError, match="changed its memory in 50% of the timed steps, not in"):
        _check_condition(keeps, 0.5)


def test_bases_are_contestants_and_of_the_same_kind():
    for contestant in CONTESTANTS.values():
        if contestant.base is not None:
            # some bases have no fused kernel
            assert CONTESTANTS[contestant.base].options.items() <= contestant.options.items()
        assert (contestant.base is None) == (contestant.module != OURS)
    assert CONTESTANTS[REFERENCE].options == {"fused": True}


def test_memory_options_multiply():
    found = entries(["sgd", "sgd_c"], [5, 50], [None, "int8"], "cpu")
    keys = [entry.key for entry in found]
    assert len(set(keys)) == len(keys) == 1 + 2 * 2 * len(CONDITIONS)
    assert keys[0] == "sgd"
    assert "sgd_c keeps capacity=5 memory_device=cpu" in keys
    assert "sgd_c replaces capacity=50 memory_dtype=int8 memory_device=cpu beside 5" in keys
    assert found[-1].lesser.key == "sgd_c replaces capacity=5 memory_dtype=int8 memory_device=cpu"
    assert found[-1].memory == "replaces 50 int8 on cpu"


# Sets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tensors", "elements"),
    [
        ("mlp", 6, 235_146),
        ("11m", 62, 11_689_512),  # ResNet-18
        ("25m", 150, 25_557_032 - 2 * 3840 - 2 * 64 - 1000),  # ResNet-50 less 11 tensors
        ("100m", 12, 100_663_296),
        ("1b", 201, 1_100_048_384),
    ],
)
def test_the_sets_are_as_large_as_they_say(name, tensors, elements):
    facts = sets.SETS[name].facts
    assert (facts.tensors, facts.elements) == (tensors, elements)
    assert facts.bytes == elements * (2 if name == "1b" else 4)


def test_a_set_is_the_same_every_time_and_its_gradients_are_not_zero():
    one, other = (sets.SETS["mlp"].make(CPU) for _ in range(2))
    for p, q in zip(one, other, strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p.grad, q.grad)
        assert p.grad.count_nonzero() > 0


# One measurement ---------------------------------------------------------------------------------


def test_what_a_contestant_warns_of_is_kept_once_even_if_it_warns_once_a_process(monkeypatch):
    class Warner(torch.optim.SGD):
        told = False

        def step(self, closure=None):
            if not Warner.told:
                warnings.warn("no kernel in /a/b.so", RuntimeWarning, stacklevel=2)
            Warner.told = True
            super().step(closure)

    monkeypatch.setattr(torch.optim, "RMSprop", Warner)
    tiny = sets.ParameterSet("tiny", "a tiny one", (((10, 100), torch.float32),))
    found = measure.measure(Entry(CONTESTANTS["rmsprop"]), tiny, Settings("cpu", 1, 6))
    assert found.status == "measured"
    assert found.warned == ["RuntimeWarning: no kernel in b.so"]
