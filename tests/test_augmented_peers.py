"""MemoryAugmented around every optimizer of torch and three other packages, on a real task.

Each trains a small network on scikit-learn's digits. `peers.py` says how it is made, what it needs,
and which cannot have a memory or had better not; docs/augmented.md has the same as tables.
"""

from __future__ import annotations

import copy
import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn

import peers
from gradmem import MemoryAugmented
from optimizers import assert_differ, assert_same
from test_augmented import Spy

MEMORY = {"capacity": 4, "decay": 0.9, "kappa": 0.7}
STEPS = 40
FEWER = {"Kron": 12, "SpectralSphere": 12}  # one step of theirs takes as long as fifty others
DATA = load_digits()
IMAGES = torch.tensor(DATA.data / 16 - 0.3, dtype=torch.float32)
LABELS = torch.tensor(DATA.target)

PEERS = [
    peer for package in peers.PACKAGES if peers.installed(package) for peer in peers.peers(package)
]
WORKING = [peer for peer in PEERS if peer.refusal is None]
ALONE = [peer for peer in WORKING if not (peer.need and peer.need.inside)]
pytestmark = [
    # bitsandbytes: there they are the ones without Paged
    pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU"),
    pytest.mark.usefixtures("process_group"),
]


def each(chosen):
    return pytest.mark.parametrize("peer", chosen, ids=lambda peer: peer.id)


@pytest.fixture
def process_group(request):
    """For those that communicate: a group of this process alone."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    peer = parameters.get("peer")
    need = peer.need if peer else None
    if need and need.package and not peers.installed(need.package):
        pytest.skip(
            f"{peer.name} needs {need.package}: pip install -c constraints.txt {need.package}"
        )
    if not need or not need.distributed:
        yield
        return
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def ready(optimizer):
    """In the mode for training, as the schedule-free ones need it."""
    if hasattr(optimizer, "train"):
        optimizer.train()
    return optimizer


def plain(peer):
    """A network and its optimizer."""
    model = network()
    return model, ready(peer.make(model))


def augmented(peer, **memory):
    """A network, what to step, and the optimizer that has the memory."""
    model = network()
    optimizer, holder = peer.make_with_memory(model, **memory)
    return model, ready(optimizer), holder


def backward(model, t):
    """The loss on batch t; the parameters have its gradient afterwards."""
    rows = torch.randint(len(IMAGES), (64,), generator=torch.Generator().manual_seed(t))
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(IMAGES[rows]), LABELS[rows])
    loss.backward()
    draw_from(t)
    return loss


def draw_from(seed):
    """Some optimizers draw numbers, each from a generator of its liking."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def train(model, optimizer, steps):
    losses = []
    for t in steps:
        losses.append(backward(model, t).item())
        optimizer.step()
    return losses


@torch.no_grad()
def loss_on_all(model):
    return nn.functional.cross_entropy(model(IMAGES), LABELS).item()


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


# Those that work ----------------------------------------------------------------------------------


@each(WORKING)
def test_it_trains(peer):
    steps = range(FEWER.get(peer.name, STEPS))
    model, optimizer, holder = augmented(peer, **MEMORY)
    losses = train(model, optimizer, steps)
    (report,) = holder.memory_report().scopes
    assert report.occupied == MEMORY["capacity"]
    other, alone = plain(peer)
    assert losses != train(other, alone, steps)
    if not (peer.caution and peer.caution.diverges_after) and loss_on_all(other) < loss_on_all(
        network()
    ):
        assert loss_on_all(model) < loss_on_all(network())
    if peer.name.endswith("8bit"):
        states = holder.optimizer.state.values()
        assert all(entry["state1"].dtype is torch.uint8 for entry in states)


@each(ALONE)
def test_it_sees_the_aggregates_and_nothing_else(peer):
    """The optimizer handed new tensors with the aggregates of another memory takes the same path,
    and gradients are as they were, whatever it does to those it is handed.
    """
    model, optimizer, holder = augmented(peer, **MEMORY)
    other, alone = plain(peer)
    held = {p for group in holder.param_groups for p in group["params"]}
    mirror = [torch.nn.Parameter(p.detach().clone()) for p in model.parameters()]
    spy = Spy(mirror)
    memory = MemoryAugmented(spy, **MEMORY)
    for t in range(12):
        backward(model, t)
        given = [p.grad for p in model.parameters()]
        for p, mirrored, grad in zip(model.parameters(), mirror, given, strict=True):
            mirrored.grad = grad.clone() if p in held else None
        memory.step()
        for p, seen in zip(other.parameters(), spy.seen, strict=True):
            p.grad = seen
        draw_from(t)
        alone.step()
        draw_from(t)
        optimizer.step()
        assert_same(weights(model), weights(other), where=f"step {t}")
        for p, mirrored, grad in zip(model.parameters(), mirror, given, strict=True):
            assert p.grad is grad
            assert mirrored.grad is None or torch.equal(mirrored.grad, grad)
    assert_differ(weights(model), weights(network()))


@pytest.mark.parametrize("off", [{"capacity": 0}, {"kappa": 0}], ids=["capacity", "kappa"])
@each(WORKING)
def test_switched_off_it_is_the_base(peer, off):
    model, optimizer, holder = augmented(peer, **off)
    other, alone = plain(peer)
    assert train(model, optimizer, range(5)) == train(other, alone, range(5))
    assert_same(weights(model), weights(other))
    assert holder.memory_report().scopes == ()


@each(WORKING)
def test_resume_is_bit_exact(peer):
    model, optimizer, holder = augmented(peer, **MEMORY)
    train(model, optimizer, range(6))
    saved = through_a_file((model.state_dict(), optimizer.state_dict()), loads_safely(peer))
    other, resumed, again = augmented(peer, **MEMORY)
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert str(again.memory_report()) == str(holder.memory_report())
    assert train(model, optimizer, range(6, 11)) == train(other, resumed, range(6, 11))
    assert_same(weights(model), weights(other))
    assert str(again.memory_report()) == str(holder.memory_report())


def through_a_file(content, weights_only):
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


def loads_safely(peer):
    """Whether `torch.load` takes its state, without a memory, with the safe default."""
    model, alone = plain(peer)
    train(model, alone, range(1))
    try:
        through_a_file(alone.state_dict(), True)
    except Exception:  # of a kind that depends on what is in there
        return False
    return True


# Those that had better not, and those that cannot -------------------------------------------------


@each([peer for peer in WORKING if peer.caution and peer.caution.diverges_after])
def test_those_that_had_better_not_lose_by_it(peer):
    steps = range(peer.caution.diverges_after)
    model, optimizer, _ = augmented(peer, **MEMORY)
    train(model, optimizer, steps)
    other, alone = plain(peer)
    train(other, alone, steps)
    assert not loss_on_all(model) < 3 * loss_on_all(other)  # perhaps it is NaN


@each([peer for peer in WORKING if peer.caution and not peer.caution.sees_loss])
def test_those_that_would_look_at_the_loss_do_not_see_it(peer):
    model, optimizer, holder = augmented(peer, **MEMORY)
    assert optimizer.step(lambda: backward(model, 0)) > 1.0
    assert holder.optimizer.state["ema"]["short"] == 0.0


def refused(at):
    return each([peer for peer in PEERS if peer.refusal and peer.refusal.at == at])


@refused("wrapping")
def test_those_that_cannot_be_wrapped_say_so(peer):
    base = peer.make(network())
    with pytest.raises(Exception, match=peer.refusal.says) as error:
        MemoryAugmented(base, **MEMORY)
    assert error.type.__name__ in peer.refusal.error.split("|")


@refused("step")
@pytest.mark.filterwarnings("ignore:you need to install:ImportWarning")
def test_those_that_cannot_be_stepped_say_so(peer):
    """Gradients and memory are as they were, whatever became of the parameters."""
    model = network()
    optimizer = MemoryAugmented(peer.make(model), **MEMORY)
    backward(model, 0)
    given = [p.grad for p in model.parameters()]
    before = copy.deepcopy(given), str(optimizer.memory_report())
    with pytest.raises(Exception, match=peer.refusal.says) as error:
        optimizer.step(lambda: torch.tensor(0.0))
    assert error.type.__name__ in peer.refusal.error.split("|")
    assert all(p.grad is grad for p, grad in zip(model.parameters(), given, strict=True))
    assert_same((given, str(optimizer.memory_report())), before)


# The tables ---------------------------------------------------------------------------------------


@pytest.fixture(params=peers.PACKAGES)
def package(request):
    if not peers.installed(request.param):
        pytest.skip(f"{request.param} is not installed: pip install -c constraints.txt")
    return request.param


def test_the_table_names_no_optimizer_that_is_not_there(package):
    tables = (peers.NEEDS, peers.REFUSED, peers.CAUTION)
    named = {name for table in tables for name in table.get(package, {})}
    assert named <= {peer.name for peer in PEERS if peer.package == package}


def test_the_documentation_has_these_tables(package):
    page = Path(__file__).parents[1] / "docs" / "augmented.md"
    as_printed, as_written = peers.tables([package]), page.read_text(encoding="utf-8")
    rows = [
        [line for line in text.splitlines() if line.startswith((f"| {package} ", f"| {package}:"))]
        for text in (as_written, as_printed)
    ]
    assert rows[0] == rows[1], "python tests/peers.py prints them as they are now"
    assert len(rows[0]) > 1
