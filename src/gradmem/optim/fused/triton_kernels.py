"""The kernels of the fused pass on an accelerator, in Triton; `on_triton` launches them.

`one_pass` is the twin of the kernels on the CPU: one launch for all parameters of a run, a program
a block of one of them. What it works on, with what options, and what the ledger has decided, it
finds in tables on the device: nothing that a step may change is compiled in. What is refused costs
no traffic. Arithmetic is in float32, or float64 for float64 parameters, rounded once to each
tensor's type.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language import constexpr

from gradmem.optim.fused.triton_rules import adam, divide, rmsprop, sgd

# Columns of the table, int64, a row a tensor: elements, row of the ledger, addresses. These are of
# parameter, running sum, slots (capacity, size), their scales (capacity, blocks) if they are int8,
# three states of the rule, and its count of steps; 0 of what there is not.
SIZE, ROW, PARAM, TOTAL, SLOTS, SCALES = (constexpr(i) for i in range(6))
STATES, STEP, COLUMNS = constexpr(6), constexpr(9), constexpr(10)

SCALE_BLOCK = constexpr(256)  # elements of int8 that share a scale, as in formats.py
SMALLEST_SCALE = constexpr(1.1754943508222875e-38)
LARGEST_SCALE = constexpr(2.679388236800882e36)
FLOAT16 = constexpr(65504.0)  # the largest numbers of these types
BFLOAT16 = constexpr(3.3895313892515355e38)
FLOAT32 = constexpr(3.4028234663852886e38)


# Memory -------------------------------------------------------------------------------------------

# A block is a pointer to its first element, and how many elements are left from there. `whole` says
# that it is full, and begins at a multiple of 16 bytes: only then are loads and stores wide.


@triton.jit
def _block(address, start, kind: constexpr):
    return address.to(tl.pointer_type(kind)) + start


@triton.jit
def _read(pointer, left, whole: constexpr, block: constexpr):
    offsets = tl.arange(0, block)
    if whole:
        return tl.load(tl.multiple_of(pointer + offsets, 16))
    else:  # noqa: RET505 (a branch that Triton takes while it compiles)
        return tl.load(pointer + offsets, mask=offsets < left, other=0)


@triton.jit
def _write(pointer, values, left, whole: constexpr, block: constexpr):
    offsets = tl.arange(0, block)
    if whole:
        tl.store(tl.multiple_of(pointer + offsets, 16), values)
    else:
        tl.store(pointer + offsets, values, mask=offsets < left)


@triton.jit
def _narrow(values, kind: constexpr):
    """Rounded to the nearest of this type; from float64 to 16 bits by way of float32, as torch."""
    if values.dtype == tl.float64 and kind.primitive_bitwidth == 16:
        values = values.to(tl.float32)
    return values.to(kind)


@triton.jit
def _update(
    u, row, start, left, numbers, correction, rule: constexpr, states: constexpr, kind: constexpr,
    whole: constexpr, block: constexpr
):  # fmt: skip
    """Step along u; of the rule's states, those in the bit mask `states` are read and written."""
    param = _block(tl.load(row + PARAM), start, kind)
    p = _read(param, left, whole, block).to(u.dtype)
    first = _block(tl.load(row + STATES), start, kind)
    second = _block(tl.load(row + STATES + 1), start, kind)
    third = _block(tl.load(row + STATES + 2), start, kind)
    a, b, c = u, u, u
    if states & 1:
        a = _read(first, left, whole, block).to(u.dtype)
    if states & 2:
        b = _read(second, left, whole, block).to(u.dtype)
    if states & 4:
        c = _read(third, left, whole, block).to(u.dtype)
    if rule == "sgd":
        p, a = sgd(u, p, a, numbers, states & 1)
    elif rule == "rmsprop":
        p, a, b, c = rmsprop(u, p, a, b, c, numbers, states & 2, states & 4)
    else:
        critical: constexpr = rule == "critical_adam"
        p, a, b, c = adam(u, p, a, b, c, numbers, correction, states & 4, critical)
    _write(param, _narrow(p, kind), left, whole, block)
    if states & 1:
        _write(first, _narrow(a, kind), left, whole, block)
    if states & 2:
        _write(second, _narrow(b, kind), left, whole, block)
    if states & 4:
        _write(third, _narrow(c, kind), left, whole, block)


# The slots ----------------------------------------------------------------------------------------


@triton.jit
def _slot_block(row, slot, start, kind: constexpr):
    return _block(tl.load(row + SLOTS), slot * tl.load(row + SIZE) + start, kind)


@triton.jit
def _first_scale(row, slot, start):
    blocks = (tl.load(row + SIZE) + SCALE_BLOCK - 1) // SCALE_BLOCK
    scales = tl.load(row + SCALES).to(tl.pointer_type(tl.float32))
    return scales + (slot * blocks + start // SCALE_BLOCK)


@triton.jit
def _slot_values(
    row, slot, start, left, wide: constexpr, kind: constexpr, whole: constexpr, block: constexpr
):
    """What a block of a slot stands for."""
    values = _read(_slot_block(row, slot, start, kind), left, whole, block).to(wide)
    if kind == tl.int8:
        offsets = tl.arange(0, block)
        scales = _first_scale(row, slot, start) + offsets // SCALE_BLOCK
        values = (values.to(tl.float32) * tl.load(scales, mask=offsets < left, other=0)).to(wide)
    return values


@triton.jit
def _clamped(g, kind: constexpr):
    """No number beyond the largest of a narrower type. Of float32, no square is infinite."""
    largest: constexpr = BFLOAT16 if kind == tl.bfloat16 else FLOAT32
    if kind == tl.float16:
        g = tl.minimum(tl.maximum(g, -FLOAT16), FLOAT16)
    elif g.dtype == tl.float64 and kind != tl.float64:
        g = tl.minimum(tl.maximum(g, -largest), largest)
    return g


@triton.jit
def _to_integer(x):
    """To the nearest, half to even, if it is small: by adding a number whose last bit is 1."""
    big: constexpr = 6755399441055744.0 if x.dtype == tl.float64 else 12582912.0
    return (x + big) - big


@triton.jit
def _encode_int8(g, scales, left, block: constexpr):
    """Codes of a block and what they stand for; writes their scales down."""
    count: constexpr = block // SCALE_BLOCK
    parts = tl.reshape(g, (count, SCALE_BLOCK))
    most = tl.max(tl.abs(parts), 1)
    scale = divide(most, tl.full((count,), 127.0, g.dtype)).to(tl.float32)
    scale = tl.minimum(tl.maximum(scale, SMALLEST_SCALE), LARGEST_SCALE)
    part = tl.arange(0, count)
    tl.store(scales + part, scale, mask=part * SCALE_BLOCK < left)
    each = tl.broadcast_to(scale[:, None], (count, SCALE_BLOCK))
    codes = _to_integer(divide(parts, each.to(g.dtype)))
    codes = tl.minimum(tl.maximum(codes, -127.0), 127.0).to(tl.float32)
    values = tl.reshape(codes * each, (block,))
    return tl.reshape(codes, (block,)).to(tl.int8), values.to(g.dtype)


@triton.jit
def _exchange(
    g, total, row, slot, start, left, kind: constexpr, whole: constexpr, block: constexpr
):
    """Put g into a slot; take the sum from what was read there before to what will be read."""
    old = _slot_values(row, slot, start, left, g.dtype, kind, whole, block)
    # Threads may share a store out otherwise than a load, and would write over numbers and scales
    # that others have not read yet: what is stored does not wait for what was there.
    tl.debug_barrier()
    if kind == tl.int8:
        stored, new = _encode_int8(g, _first_scale(row, slot, start), left, block)
    else:
        stored = _narrow(_clamped(g, kind), kind)
        new = stored.to(g.dtype)
    _write(_slot_block(row, slot, start, kind), stored, left, whole, block)
    _write(_block(tl.load(row + TOTAL), start, g.dtype), total - old + new, left, whole, block)


# Passes -------------------------------------------------------------------------------------------


@triton.jit
def _chunk(chunks, table, chunk, block: constexpr):
    """Which tensor a chunk is of, its line in the table, and where in the tensor it begins."""
    place = chunks + 2 * chunk
    tensor = tl.load(place).to(tl.int64)
    return tensor, table + tensor * COLUMNS, tl.load(place + 1).to(tl.int64) * block


@triton.jit
def _left(row, start, block: constexpr):
    """How many elements of the tensor a chunk that begins there has."""
    return tl.minimum(tl.load(row + SIZE) - start, block).to(tl.int32)


@triton.jit
def _step_block(
    tensor, start, row, grad, updates, writes, measures, square, numbers, corrections, current,
    stored, slot, capacity, rule: constexpr, states: constexpr, kind: constexpr,
    slot_kind: constexpr, uniform: constexpr, whole: constexpr, block: constexpr
):  # fmt: skip
    """All that is done with a block. Of a tensor without a gradient, zero is stored."""
    wide: constexpr = tl.float64 if kind == tl.float64 else tl.float32
    ledger = tl.load(row + ROW)
    left = _left(row, start, block)
    g = tl.zeros((block,), wide)
    if grad != 0:
        g = _read(_block(grad, start, kind), left, whole, block).to(wide)
    if measures:
        tl.store(square, tl.sum(g * g, 0).to(tl.float64))
    reads_total = writes
    if uniform:
        weight = tl.load(stored + ledger).to(wide)
        reads_total = writes | (updates & (weight != 0))
    total = tl.zeros((block,), wide)
    if reads_total:
        total = _read(_block(tl.load(row + TOTAL), start, wide), left, whole, block)
    if updates:
        u = tl.load(current + ledger).to(wide) * g
        if uniform:
            u = tl.where(weight == 0, u, u + weight * total)
        else:
            for k in range(capacity):
                each = tl.load(stored + ledger * capacity + k).to(wide)
                if each != 0:
                    values = _slot_values(row, k, start, left, wide, slot_kind, whole, block)
                    u += each * values
        correction = corrections + 2 * tensor
        _update(u, row, start, left, numbers, correction, rule, states, kind, whole, block)
    if writes:
        entered = tl.load(slot + ledger)
        _exchange(g, total, row, entered, start, left, slot_kind, whole, block)


@triton.jit
def _any(update, write, rows):
    """Whether a ledger updates or writes."""
    found = 0
    for first in range(0, rows, 128):
        each = first + tl.arange(0, 128)
        updates = tl.load(update + each, mask=each < rows, other=0)
        writes = tl.load(write + each, mask=each < rows, other=0)
        found += tl.sum((updates | writes).to(tl.int32), 0)
    return found > 0


# Where an array begins, the first so many arguments, is nothing to compile another kernel for.
@triton.jit(
    do_not_specialize=["count", "rows", "capacity", "measure"],
    do_not_specialize_on_alignment=list(range(11)),
)
def one_pass(
    chunks,  # (count, 2) int32: a tensor, and which of its blocks
    table,  # (tensors, COLUMNS) int64
    grads,  # (tensors,) int64: addresses of gradients, or what is offered; 0 where there is none
    numbers,  # float64: the rule's options
    corrections,  # (tensors, 2) float64, of `count_steps`
    current,  # (rows,) float64
    stored,  # (rows,) float64, or (rows, capacity) where not `uniform`
    slot,  # (rows,) int64
    update, write,  # (rows,) bool
    squares,  # (count,) float64: takes sums of squares of what is stepped along, if `measure`
    count, rows, capacity, measure,  # int32
    rule: constexpr, states: constexpr, kind: constexpr, slot_kind: constexpr,
    uniform: constexpr, block: constexpr
):  # fmt: skip
    """Combine with the memory, step along that, and let the memory take what is offered.

    Programs share the chunks, and are soon done where there is nothing to do for any.
    """
    measures = measure != 0
    if _any(update, write, rows):
        for chunk in range(tl.program_id(0), count, tl.num_programs(0)):
            tensor, row, start = _chunk(chunks, table, chunk, block)
            grad = tl.load(grads + tensor)
            ledger = tl.load(row + ROW)
            updates = tl.load(update + ledger) & (grad != 0)
            writes = tl.load(write + ledger)
            square = squares + chunk
            if measures & (grad == 0):
                tl.store(square, tl.zeros((), tl.float64))
            if updates | writes:
                size = tl.load(row + SIZE)
                together = grad | tl.load(row + PARAM) | tl.load(row + TOTAL) | tl.load(row + SLOTS)
                for i in tl.static_range(3):
                    together |= tl.load(row + STATES + i)
                together |= size * (slot_kind.primitive_bitwidth // 8)  # where the next slot begins
                if (together % 16 == 0) & (start + block <= size):
                    _step_block(
                        tensor, start, row, grad, updates, writes, measures, square, numbers,
                        corrections, current, stored, slot, capacity, rule, states, kind, slot_kind,
                        uniform, True, block
                    )  # fmt: skip
                else:
                    _step_block(
                        tensor, start, row, grad, updates, writes, measures, square, numbers,
                        corrections, current, stored, slot, capacity, rule, states, kind, slot_kind,
                        uniform, False, block
                    )  # fmt: skip


@triton.jit(do_not_specialize=["count", "rows"], do_not_specialize_on_alignment=list(range(5)))
def measure(
    chunks, table, grads,  # as `one_pass` has them
    due,  # (rows,) bool
    squares,  # (count,) float64
    count, rows,  # int32
    kind: constexpr, block: constexpr
):  # fmt: skip
    """Sums of squares of the gradients of the ledgers that are due.

    In few registers, unlike `one_pass`: many programs have to read at once.
    """
    wide: constexpr = tl.float64 if kind == tl.float64 else tl.float32
    if _any(due, due, rows):
        for chunk in range(tl.program_id(0), count, tl.num_programs(0)):
            tensor, row, start = _chunk(chunks, table, chunk, block)
            if tl.load(due + tl.load(row + ROW)):
                grad = tl.load(grads + tensor)
                left = _left(row, start, block)
                g = tl.zeros((block,), wide)
                if grad != 0:
                    pointer = _block(grad, start, kind)
                    if (grad % 16 == 0) & (left == block):
                        g = _read(pointer, left, True, block).to(wide)
                    else:
                        g = _read(pointer, left, False, block).to(wide)
                tl.store(squares + chunk, tl.sum(g * g, 0).to(tl.float64))


@triton.jit(
    do_not_specialize=["count", "rows", "capacity"],
    do_not_specialize_on_alignment=list(range(3)),
)
def renew(
    chunks, table,  # as `one_pass` has them
    due,  # (rows,) bool
    count, rows, capacity,  # int32
    kind: constexpr, slot_kind: constexpr, block: constexpr
):  # fmt: skip
    """The running sums of the ledgers that are due, made anew from their slots."""
    wide: constexpr = tl.float64 if kind == tl.float64 else tl.float32
    if _any(due, due, rows):
        for chunk in range(tl.program_id(0), count, tl.num_programs(0)):
            _, row, start = _chunk(chunks, table, chunk, block)
            if tl.load(due + tl.load(row + ROW)):
                left = _left(row, start, block)
                total = tl.zeros((block,), wide)
                for k in range(capacity):
                    total += _slot_values(row, k, start, left, wide, slot_kind, False, block)
                _write(_block(tl.load(row + TOTAL), start, wide), total, left, False, block)


@triton.jit(do_not_specialize_on_alignment=list(range(5)))
def count_steps(table, grads, numbers, corrections, update, kind: constexpr):
    """Raise the count of steps t of a tensor, if it has a gradient and its row steps.

    And write down what Adam's moments are scaled by: lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t). In
    float64, and therefore once a tensor: on some devices that takes 64 times as long as float32.
    """
    tensor = tl.program_id(0).to(tl.int64)
    row = table + tensor * COLUMNS
    if tl.load(update + tl.load(row + ROW)) & (tl.load(grads + tensor) != 0):
        pointer = tl.load(row + STEP).to(tl.pointer_type(kind))
        step = tl.load(pointer) + 1
        tl.store(pointer, step)
        t = step.to(tl.float64)
        first = 1.0 - tl.exp(t * tl.log(tl.load(numbers + 1)))
        second = 1.0 - tl.exp(t * tl.log(tl.load(numbers + 2)))
        tl.store(corrections + 2 * tensor, tl.load(numbers) / first)
        tl.store(corrections + 2 * tensor + 1, 1.0 / tl.sqrt(second))


@triton.jit(do_not_specialize_on_alignment=list(range(3)))
def add_up(values, ends, sums, roots: constexpr, block: constexpr):
    """Sums of neighbours, float64: number i of values[ends[i]:ends[i + 1]], or the root of that."""
    number = tl.program_id(0)
    end = tl.load(ends + number + 1)
    total = tl.zeros((block,), tl.float64)
    for first in range(tl.load(ends + number), end, block):
        each = first + tl.arange(0, block)
        total += tl.load(values + each, mask=each < end, other=0)
    result = tl.sum(total, 0)
    tl.store(sums + number, tl.sqrt(result) if roots else result)
