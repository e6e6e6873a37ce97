"""What tests of the accelerator's kernels without a device share: they run in Triton's interpreter.

The parameters are on the CPU, decisions stay in tensors, and `on_triton` takes them.
"""

from __future__ import annotations

import os

import pytest
import torch

import gradmem
from gradmem.optim.fused import launches, on_triton
from gradmem.optim.plan import Memory

try:
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle
except ImportError as error:
    REASON = f"no Triton: {error}"
else:
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"  # conftest.py sees to it
    REASON = (
        None if interpreted else "Triton compiles; where there is a device, see test_cuda_fused.py"
    )

SHAPES = ((3, 4), (), (0,), (300,))
needs_interpreter = pytest.mark.skipif(REASON is not None, reason=f"not interpreted: {REASON}")


class Watch:
    """The passes that were made, and what they moved."""

    def __init__(self):
        self.steps = 0  # passes after the decision
        self.measured = 0  # passes before it
        self.ahead = 0  # those of them that made updates
        self.late = 0  # passes in which a gradient entered of a ledger that had made its update
        self.bytes = 0
        self.forms = set()

    def words(self, of):
        """Bytes moved since the last time, in float32 words an element of such a tensor."""
        moved, self.bytes = self.bytes, 0
        return moved / 4 / of.numel()


def use_interpreter(monkeypatch):
    """From here on runs on the CPU are those of an accelerator."""
    watch = Watch()
    monkeypatch.setattr(Memory, "on_host", False)
    monkeypatch.setattr(on_triton, "DEVICES", {"cpu"})
    monkeypatch.setattr(launches, "_MADE", {})
    _count_passes(monkeypatch, watch)
    _count_bytes(monkeypatch, watch)
    _round_to_even(monkeypatch)
    return watch


def _count_passes(monkeypatch, watch):
    one_pass, measure = on_triton.one_pass, on_triton.measure

    def counting(form, layout, given, orders, capacity, squares=None):
        watch.forms.add(form)
        one_pass(form, layout, given, orders, capacity, squares)
        first = squares is not None
        watch.steps += not first
        watch.ahead += first and bool(orders.update.any())
        watch.late += not first and bool((columns(orders.write, orders.update)).any())

    def measuring(*arguments):
        watch.measured += 1
        return measure(*arguments)

    def columns(write, update):
        """Which ledgers write, and do not update: of the first there is only the address."""
        return write.as_strided(update.shape, (1,)) & ~update

    monkeypatch.setattr(on_triton, "one_pass", counting)
    monkeypatch.setattr(on_triton, "measure", measuring)


def _count_bytes(monkeypatch, watch):
    """Of blocks: what a program reads of tables, decisions and options is not counted. And check
    the alignment that a kernel promises."""
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def count(pointers, mask):
        # What a device would take for granted.
        assert "tt.divisibility" not in pointers.attr or pointers.data.flat[0] % 16 == 0
        if pointers.data.size > 128:
            bits = max(8, pointers.get_element_ty().primitive_bitwidth)
            watch.bytes += int(np.broadcast_to(mask.data, pointers.data.shape).sum()) * bits // 8

    def counting_load(self, pointers, mask, *rest):
        count(pointers, mask)
        return load(self, pointers, mask, *rest)

    def counting_store(self, pointers, value, mask, *rest):
        count(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", counting_load)
    monkeypatch.setattr(InterpreterBuilder, "create_masked_store", counting_store)


def _round_to_even(monkeypatch):
    """As devices do from float32 to bfloat16, where the interpreter cuts bits off."""
    cast = InterpreterBuilder.cast_impl

    def rounding(self, source, kind):
        if (source.dtype.scalar, kind.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, source, kind)
        numbers = torch.from_numpy(np.atleast_1d(source.data)).bfloat16().view(torch.int16)
        bits = numbers.numpy().view(np.uint16).reshape(source.data.shape)
        return TensorHandle(bits, kind.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "cast_impl", rounding)


def course(name, fused, steps=7, dtype=torch.float64, absent=(), edit=None, **options):
    """Parameters and state after steps whose gradients depend on nothing but the shapes."""
    shapes = options.pop("shapes", SHAPES)
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in shapes]
    options = {"lr": 0.01, "capacity": 3, "decay": 0.95, "weight_decay": 0.1, **options}
    optimizer = getattr(gradmem, name)(params, fused=fused, **options)
    for t in range(steps):
        for i, p in enumerate(params):
            grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype)
            p.grad = None if (t, i) in absent else grad * (1 + t % 5)
        if edit:
            edit(optimizer.param_groups[0], t)
        optimizer.step()
    return [p.detach() for p in params], [dict(optimizer.state[p]) for p in params]


def assert_equals_eager(name, launches, steps=7, eager=1, forms=1, tolerance=1e-9, **options):
    """All steps but so many are fused, by so many kernels."""
    expected = course(name, False, steps, **options)
    assert launches.steps == 0
    result = course(name, True, steps, **options)
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    assert launches.steps == steps - eager
    assert launches.measured == (0 if name.endswith("CM") else steps - eager)
    assert len(launches.forms) == forms
