"""Autocast, gradient scalers and bfloat16 parameters, on networks whose gradients autograd gives.

What is stored is never scaled, and a step that overflows leaves everything as it was, bit for bit.
Gradients made by hand, with all forms of every class, are in test_dtypes_and_shapes.py.
"""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch

import gradmem
from critical_twin import CriticalTwin
from fused_cases import CLASSES as FUSED
from fused_cases import REASON as WITHOUT_KERNELS
from gradmem import MemoryAugmented
from optimizers import assert_differ, assert_same, snapshot
from reference import Twin

torch.set_num_threads(1)
MEMORY = {"capacity": 3, "decay": 0.9}
LR = 0.01


def _makers():
    """Every class, those that have it with a fused pass, and the wrapper around both kinds."""
    for name in gradmem.names():
        yield name, lambda p, name=name, **own: gradmem.create(name, p, **{"lr": LR, **own})
    for name, cls in FUSED.items():
        yield f"{name}-fused", lambda p, cls=cls, **own: cls(p, **{"lr": LR, **own}, fused=True)
    for base in ({}, {"fused": True}, {"foreach": True}):

        def wrap(params, lr=LR, base=base, **own):
            return MemoryAugmented(torch.optim.Adam(params, lr=lr, **base), **own)

        yield f"wrapped {base}", wrap


MAKERS = dict(_makers())
CUDA = torch.cuda.is_available()
NEEDS_CUDA = pytest.mark.skipif(not CUDA, reason="NO CUDA HERE: it ran on the CPU alone")
INDUCTOR = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # it makes some itself
NEEDS_KERNELS = pytest.mark.skipif(
    WITHOUT_KERNELS is not None, reason=f"no fused kernels: {WITHOUT_KERNELS}"
)


def _cases(makers):
    """A parameter for each of these by name, on the CPU, and on a CUDA device if there is one."""
    for name, maker in makers.items():
        marks = [NEEDS_KERNELS] if name.endswith("-fused") else []
        yield pytest.param(maker, "cpu", marks=marks, id=f"{name}-cpu")
    for name, maker in list(makers.items())[: None if CUDA else 1]:
        yield pytest.param(maker, "cuda", marks=[NEEDS_CUDA, INDUCTOR], id=f"{name}-cuda")


each_maker = pytest.mark.parametrize(("make", "device"), [*_cases(MAKERS)])
each_device = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=[NEEDS_CUDA, INDUCTOR])]
)
CRITICAL = gradmem.SGD_CM, gradmem.Adam_CM, gradmem.AdamW_CM  # they store momenta


def network(device="cpu", dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)]
    return torch.nn.Sequential(*layers).to(device, dtype)


def batch(t, device="cpu", size=16):
    """Inputs of step t, with their targets; norms of gradients differ from step to step."""
    generator = torch.Generator().manual_seed(t)
    inputs = torch.randn(size, 6, generator=generator) * (1 + t % 3)
    return inputs.to(device), inputs[:, :3].tanh().to(device)


def loss_of(model, inputs, targets, autocast=None):
    """The mean square error, with the model in this type."""
    with torch.autocast(inputs.device.type, dtype=autocast, enabled=autocast is not None):
        outputs = model(inputs)
    return (outputs.float() - targets).square().mean()


class Scaled:
    """A network in float16 autocast, with a scaler; its step is what a training script has."""

    def __init__(self, make, device="cpu", autocast=torch.float16, **scaling):
        self.model = network(device)
        self.params = list(self.model.parameters())
        self.optimizer = make(self.params, **MEMORY)
        scaling = {"init_scale": 2.0**10, "growth_interval": 4, **scaling}
        self.scaler = torch.amp.GradScaler(device, **scaling)
        self.autocast = autocast

    def step(self, *batches, clip=None):
        """One step on the mean over some batches."""
        self.optimizer.zero_grad()
        for inputs, targets in batches:
            loss = loss_of(self.model, inputs, targets, self.autocast) / len(batches)
            self.scaler.scale(loss).backward()
        if clip is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.params, clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def all_there_is(self):
        state = copy.deepcopy(self.optimizer.state_dict())
        return [p.detach().clone() for p in self.params], state

    def held(self):
        return self.optimizer.memory_report().scopes[0]

    def slots(self):
        """The stored gradients of each parameter, oldest first."""
        state = getattr(self.optimizer, "memory_state", self.optimizer.state)
        for p in self.params:
            births = state[p]["memory_birth"].cpu()
            held = births.nonzero().flatten().tolist()
            order = sorted(held, key=lambda slot: int(births[slot]))
            yield [state[p]["memory_slots"][slot] for slot in order]


def too_large(device):
    """A batch whose inputs are beyond float16."""
    inputs, targets = batch(0, device)
    return inputs * 1e6, targets


# Autocast ----------------------------------------------------------------------------------------

NAMED = {name: make for name, make in MAKERS.items() if not name.startswith("wrapped")}


@pytest.mark.parametrize(("make", "device"), [*_cases(NAMED)])
def test_under_autocast_every_step_is_the_twin_s(make, device):
    """bfloat16 autocast, float32 parameters: the twin gets the gradients that autograd gives."""
    model = network(device)
    params = list(model.parameters())
    optimizer = make(params, **MEMORY)
    rule = type(optimizer).__name__.partition("_")[0].lower()
    start = [p.detach().cpu().double().numpy() for p in params]
    twin = (CriticalTwin if isinstance(optimizer, CRITICAL) else Twin)(rule, start, lr=LR, **MEMORY)
    losses = []
    for t in range(30):
        optimizer.zero_grad()
        loss = loss_of(model, *batch(t, device), torch.bfloat16)
        loss.backward()
        twin.step([p.grad.cpu().double().numpy() for p in params])
        optimizer.step()
        losses.append(loss.item() / (1 + t % 3))
        for i, p in enumerate(params):
            assert p.dtype is torch.float32
            np.testing.assert_allclose(p.detach().cpu(), twin.params[i], rtol=2e-5, atol=2e-5)
            state, slots = optimizer.state[p], twin.memory_of(i)
            assert state["memory_slots"].dtype is state["memory_sum"].dtype is torch.float32
            assert state["memory_birth"].tolist() == [0 if s is None else s[2] for s in slots]
            for ours, slot in zip(state["memory_slots"].cpu(), slots, strict=True):
                expected = np.zeros_like(twin.params[i]) if slot is None else slot[3]
                np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    assert sum(losses[-6:]) < sum(losses[:6])


@each_maker
def test_a_step_inside_the_autocast_block_is_the_one_outside(make, device):
    """No operation of a step is cast, norms and directions neither."""
    runs = []
    for inside in (True, False):
        model = network(device)
        optimizer = make(list(model.parameters()), **MEMORY, policy="cosine_diverse")
        for t in range(8):
            optimizer.zero_grad()
            loss_of(model, *batch(t, device), torch.bfloat16).backward()
            with torch.autocast(device, dtype=torch.bfloat16, enabled=inside):
                optimizer.step()
        runs.append(snapshot(optimizer, list(model.parameters())))
    assert_same(*runs)


@each_maker
def test_parameters_in_bfloat16(make, device):
    """All but the running sums in bfloat16; the slots are the gradients, bit for bit."""
    model = network(device, torch.bfloat16)
    params = list(model.parameters())
    optimizer = make(params, capacity=40)
    stored, losses = [], []
    for t in range(40):
        optimizer.zero_grad()
        inputs, targets = batch(t % 3, device)
        loss = loss_of(model, inputs.bfloat16(), targets)
        loss.backward()
        stored.append([p.grad.clone() for p in params])
        optimizer.step()
        losses.append(loss.item())
    state = getattr(optimizer, "memory_state", optimizer.state)
    for i, p in enumerate(params):
        slots, total = state[p]["memory_slots"], state[p]["memory_sum"]
        assert (p.dtype, slots.dtype, total.dtype) == (torch.bfloat16,) * 2 + (torch.float32,)
        if not isinstance(optimizer, CRITICAL):
            assert_same(slots, torch.stack([grads[i] for grads in stored]))
        torch.testing.assert_close(total, slots.float().sum(dim=0), rtol=1e-5, atol=1e-5)
    assert sum(losses[-3:]) < sum(losses[:3])


@each_maker
def test_float32_master_weights_of_a_bfloat16_model(make, device):
    """The optimizer has float32 copies: gradients go up, weights down. Gradients that were made in
    bfloat16 lose nothing in a memory that is kept in it.
    """
    runs = []
    for memory_dtype in (None, "bfloat16"):
        model = network(device, torch.bfloat16)
        params = list(model.parameters())
        masters = [torch.nn.Parameter(p.detach().float()) for p in params]
        optimizer = make(masters, **MEMORY, memory_dtype=memory_dtype)
        for t in range(12):
            inputs, targets = batch(t, device)
            model.zero_grad()
            loss_of(model, inputs.bfloat16(), targets).backward()
            for p, master in zip(params, masters, strict=True):
                master.grad = p.grad.float()
            optimizer.step()
            with torch.no_grad():
                torch._foreach_copy_(params, masters)
        state = getattr(optimizer, "memory_state", optimizer.state)
        assert all(state[m]["memory_sum"].dtype is torch.float32 for m in masters)
        assert_differ([m.detach() for m in masters], [p.detach().float() for p in params])
        runs.append([m.detach() for m in masters])
    if not isinstance(optimizer, CRITICAL):
        assert_same(*runs)


# Scalers -----------------------------------------------------------------------------------------


@each_maker
def test_what_is_stored_is_not_scaled(make, device):
    """Slots and norms are a plain float32 run's but for float16's rounding; the scale grows."""
    ours = Scaled(make, device, growth_interval=2)
    plain = Scaled(make, device, autocast=None, enabled=False)
    assert plain.scaler.get_scale() == 1.0
    for t in range(3):
        ours.step(batch(t, device))
        plain.step(batch(t, device))
    assert ours.scaler.get_scale() == 2.0**11
    assert ours.held().occupied == plain.held().occupied == 3
    np.testing.assert_allclose(ours.held().norms, plain.held().norms, rtol=0.02)
    for mine, theirs in zip(ours.slots(), plain.slots(), strict=True):
        for slot, expected in zip(mine, theirs, strict=True):
            torch.testing.assert_close(
                slot, expected, rtol=0.05, atol=0.02 * float(expected.norm())
            )


@each_maker
def test_with_unscale_the_clipped_gradients_are_stored(make, device):
    """And they are what ``p.grad`` holds at the step, bit for bit."""
    run = Scaled(make, device)
    given = []

    def note(optimizer, args, kwargs):
        given.append([p.grad.clone() for p in run.params])

    run.optimizer.register_step_pre_hook(note)
    for t in range(3):
        run.step(batch(t, device), clip=0.05)
    norms = [torch.cat([g.flatten() for g in grads]).norm().item() for grads in given]
    np.testing.assert_allclose(norms, 0.05, rtol=1e-3)
    if not isinstance(run.optimizer, CRITICAL):
        np.testing.assert_allclose(run.held().norms, norms, rtol=1e-5)
        assert_same(list(run.slots()), [list(slots) for slots in zip(*given, strict=True)])


@each_maker
def test_an_overflow_leaves_everything_as_it_was(make, device):
    """Of inputs beyond float16, and of a scale that has grown beyond it; and training goes on."""
    run = Scaled(make, device, init_scale=2.0**8, growth_interval=1, growth_factor=16.0)
    overflows = {"inputs": 0, "scale": 0}
    for t in range(16):
        inputs = too_large(device) if t in (2, 9) else batch(t, device)
        before, scale = run.all_there_is(), run.scaler.get_scale()
        run.step(inputs, clip=1.0 if t % 2 else None)
        if run.scaler.get_scale() < scale:
            overflows["inputs" if t in (2, 9) else "scale"] += 1
            assert run.scaler.get_scale() == scale / 2
            assert not all(p.grad.isfinite().all() for p in run.params)
            assert_same(run.all_there_is(), before)
        else:
            assert_differ(run.all_there_is(), before)
            assert all(p.grad.isfinite().all() for p in run.params)
    assert overflows["inputs"] == 2
    assert overflows["scale"] >= 3
    assert run.held().steps == 16 - sum(overflows.values())
    assert run.held().occupied == 3


@each_maker
def test_accumulated_gradients_are_one_gradient(make, device):
    """Of four small batches the memory sees the mean, once; an overflow in one is one in all."""
    ours, whole = Scaled(make, device), Scaled(make, device)
    for t in range(5):
        inputs, targets = batch(t, device)
        parts = list(zip(inputs.chunk(4), targets.chunk(4), strict=True))
        if t == 3:
            before = ours.all_there_is()
            ours.step(*parts[:2], too_large(device), parts[3])
            assert_same(ours.all_there_is(), before)
            continue
        ours.step(*parts)
        whole.step((inputs, targets))
    assert ours.held().steps == whole.held().steps == 4
    np.testing.assert_allclose(ours.held().norms, whole.held().norms, rtol=0.02)


@each_device
def test_several_optimizers_on_one_scaler(device):
    """Each is left out by itself where its own gradients overflow; the scale backs off for all."""
    models = [network(device, seed=seed) for seed in range(3)]
    makers = [MAKERS["adam_c"], MAKERS["sgd_cm"], MAKERS["wrapped {'fused': True}"]]
    optimizers = [
        make(list(m.parameters()), **MEMORY) for make, m in zip(makers, models, strict=True)
    ]
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10)
    for t in range(8):
        before = [copy.deepcopy(o.state_dict()) for o in optimizers]
        scale = scaler.get_scale()
        for i, model in enumerate(models):
            optimizers[i].zero_grad()
            inputs = too_large(device) if i == t - 3 else batch(t, device)
            scaler.scale(loss_of(model, *inputs, torch.float16)).backward()
        scaler.unscale_(optimizers[1])
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
        for i, optimizer in enumerate(optimizers):
            compare = assert_same if i == t - 3 else assert_differ
            compare(optimizer.state_dict()["state"], before[i]["state"])
        assert scaler.get_scale() == scale / (2 if 3 <= t < 6 else 1)
    assert [o.memory_report().scopes[0].steps for o in optimizers] == [7, 7, 7]


@each_maker
def test_a_resumed_run_goes_on_bit_for_bit(make, device):
    """Model, optimizer and scaler are saved between two growths of the scale, after an overflow."""

    def go_on(run, steps):
        scales = []
        for t in steps:
            run.step(too_large(device) if t in (3, 11) else batch(t, device), clip=1.0)
            scales.append(run.scaler.get_scale())
        return scales

    run, resumed = Scaled(make, device), Scaled(make, device, init_scale=3.0)
    go_on(run, range(6))
    file = io.BytesIO()
    parts = ("model", "optimizer", "scaler")
    torch.save({name: getattr(run, name).state_dict() for name in parts}, file)
    file.seek(0)
    for name, saved in torch.load(file).items():
        getattr(resumed, name).load_state_dict(saved)
    scales = go_on(run, range(6, 16))
    assert go_on(resumed, range(6, 16)) == scales
    assert len(set(scales)) > 1
    # On an accelerator the fused pass leaves the first steps to others, which round otherwise.
    close = {"rtol": 1e-4, "atol": 1e-6} if device == "cuda" else {}
    assert_same(resumed.all_there_is(), run.all_there_is(), **close)
    assert resumed.scaler.state_dict() == run.scaler.state_dict()


def test_no_optimizer_asks_a_scaler_for_scaled_gradients():
    """torch's fused ones do, as their kernels unscale; a memory would see what is scaled."""
    for name, make in MAKERS.items():
        optimizer = make(list(network().parameters()), **MEMORY)
        for copied in (optimizer, copy.deepcopy(optimizer)):
            assert not getattr(copied, "_step_supports_amp_scaling", False), name
    wrapped = MAKERS["wrapped {'fused': True}"](list(network().parameters())).optimizer
    assert wrapped._step_supports_amp_scaling  # which nobody asks


def test_the_wrapped_optimizer_is_given_neither_scale_nor_overflow():
    run = Scaled(MAKERS["wrapped {'fused': True}"])
    seen = []
    whole = torch.optim.Adam.step

    def step(self, closure=None):
        seen.append([getattr(self, name, None) for name in ("grad_scale", "found_inf")])
        return whole(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", step)
        for t in range(3):
            run.step(too_large("cpu") if t == 1 else batch(t))
    assert seen == [[None, None]] * 2
