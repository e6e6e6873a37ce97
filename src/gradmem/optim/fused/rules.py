"""The base rules of compiled passes, for torch.compile: lists of tensors, options as tensors too.

torch's own functions have numbers for options, and a schedule of any but the learning rate would
make a graph a step. In float32 or wider, rounded once to each tensor's own type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from gradmem.optim.fused.kernel import Kernel

List: TypeAlias = list[Tensor]


class Switches(NamedTuple):
    """Parts of a rule that are on."""

    maximize: bool
    decay: bool  # weight decay
    decoupled: bool = False
    nesterov: bool = False


class Options(NamedTuple):
    """A kernel's options, as a graph takes them.

    Attributes:
        numbers: lr first, then what its rule in `RULES` says.
        switches: the rest.
    """

    numbers: list[float | Tensor]
    switches: Switches


# params, updates, states, steps, numbers, switches
Apply: TypeAlias = Callable[[List, List, Sequence[List], List, Tensor, Switches], None]


class Rule(NamedTuple):
    """A base rule.

    Attributes:
        options: the kernel's, in its order, without lr, to numbers after lr, and switches.
        apply: one step, in place.
        counts: it reads the count of steps, and counts.
    """

    options: Callable[..., tuple[list[float], Switches]]
    apply: Apply
    counts: bool = False


def options_of(kernel: Kernel) -> Options | None:
    """The options of a kernel; None if one, lr apart, could be read from a device alone."""
    lr, *others = kernel.options
    if any(isinstance(value, Tensor) and value.device.type != "cpu" for value in others):
        return None
    on_device = isinstance(lr, Tensor) and lr.device.type != "cpu"
    numbers, switches = RULES[kernel.name].options(*map(float, others))
    return Options([lr if on_device else float(lr), *numbers], switches)


def write(targets: List, values: List) -> None:
    """Put new values, of a wider type perhaps, where the old ones were."""
    torch._foreach_copy_(targets, values)


def _wide(tensors: List, updates: List) -> List:
    return [t.to(u.dtype) for t, u in zip(tensors, updates, strict=True)]


def _signed(updates: List, on: Switches) -> List:
    return list(torch._foreach_neg(updates)) if on.maximize else updates


def _penalized(updates: List, params: List, decay: Tensor, on: Switches) -> List:
    """With the gradient of an L2 penalty."""
    if not on.decay or on.decoupled:
        return updates
    return list(torch._foreach_add(updates, torch._foreach_mul(params, decay)))


def _shrunk(params: List, lr: Tensor, decay: Tensor, on: Switches) -> List:
    """After decoupled weight decay."""
    if not on.decay or not on.decoupled:
        return params
    return list(torch._foreach_mul(params, 1.0 - lr * decay))


def _toward(averages: List, values: List, share: Tensor) -> List:
    """``a + share (v - a)``."""
    change = torch._foreach_mul(torch._foreach_sub(values, averages), share)
    return list(torch._foreach_add(averages, change))


def _squares(averages: List, values: List, beta: Tensor, share: Tensor) -> List:
    """``beta a + share v^2``."""
    new = torch._foreach_mul(torch._foreach_mul(values, values), share)
    return list(torch._foreach_add(torch._foreach_mul(averages, beta), new))


def _along(params: List, changes: Sequence[Tensor]) -> List:
    return list(torch._foreach_sub(params, list(changes)))


def _sgd_options(
    momentum: float, dampening: float, decay: float, nesterov: float, maximize: float
) -> tuple[list[float], Switches]:
    switches = Switches(bool(maximize), decay != 0, nesterov=bool(nesterov))
    return [momentum, 1.0 - dampening, decay], switches


def _sgd(
    params: List, updates: List, states: Sequence[List], _: List, numbers: Tensor, on: Switches
) -> None:
    (buffers,) = states
    lr, momentum, share, decay = numbers.unbind()
    before = _wide(params, updates)
    updates = _penalized(_signed(updates, on), before, decay, on)
    if buffers:
        old = torch._foreach_mul(_wide(buffers, updates), momentum)
        new = list(torch._foreach_add(old, torch._foreach_mul(updates, share)))
        ahead = torch._foreach_mul(new, momentum)
        updates = list(torch._foreach_add(updates, ahead)) if on.nesterov else new
        write(buffers, new)
    write(params, _along(before, torch._foreach_mul(updates, lr)))


def _rmsprop_options(
    alpha: float, eps: float, decay: float, momentum: float, maximize: float
) -> tuple[list[float], Switches]:
    return [alpha, 1.0 - alpha, eps, momentum, decay], Switches(bool(maximize), decay != 0)


def _rmsprop(
    params: List, updates: List, states: Sequence[List], _: List, numbers: Tensor, on: Switches
) -> None:
    squares, means, buffers = states
    lr, alpha, share, eps, momentum, decay = numbers.unbind()
    before = _wide(params, updates)
    updates = _penalized(_signed(updates, on), before, decay, on)
    spread = second = _squares(_wide(squares, updates), updates, alpha, share)
    if means:
        mean = _toward(_wide(means, updates), updates, share)
        spread = _along(second, torch._foreach_mul(mean, mean))
        write(means, mean)
    below = torch._foreach_add(torch._foreach_sqrt(spread), eps)
    changes = list(torch._foreach_div(updates, below))
    if buffers:
        old = torch._foreach_mul(_wide(buffers, updates), momentum)
        changes = list(torch._foreach_add(old, changes))
        write(buffers, changes)
    write(squares, second)
    write(params, _along(before, torch._foreach_mul(changes, lr)))


def _adam_options(
    beta1: float, beta2: float, eps: float, decay: float, decoupled: float, maximize: float
) -> tuple[list[float], Switches]:
    numbers = [x for beta in (beta1, beta2) for x in (beta, 1.0 - beta, _log(beta))]
    return [*numbers, eps, decay], Switches(bool(maximize), decay != 0, bool(decoupled))


def _log(beta: float) -> float:
    return math.log(beta) if beta > 0 else -math.inf


def _correction(counts: List, log: Tensor) -> List:
    """``1 - beta^t``, which in float32 would lose digits if it were computed like that."""
    return [-torch.expm1(t.to(log.dtype) * log) for t in counts]


def _adam(
    params: List, updates: List, states: Sequence[List], steps: List, numbers: Tensor, on: Switches
) -> None:
    means, *moments = states
    _, _, share, *_ = numbers.unbind()
    before = _wide(params, updates)
    signed = _signed(updates, on)
    penalized = _penalized(signed, before, numbers[-1], on)
    first = _toward(_wide(means, updates), penalized, share)
    write(means, first)
    _adam_step(params, before, (first, penalized), moments, steps, numbers, on)


def _critical_adam(
    params: List, updates: List, states: Sequence[List], steps: List, numbers: Tensor, on: Switches
) -> None:
    """Along momenta that have been made already, and combined; so are both moments."""
    _, *moments = states
    before = _wide(params, updates)
    updates = _penalized(_signed(updates, on), before, numbers[-1], on)
    _adam_step(params, before, (updates, updates), moments, steps, numbers, on)


def _adam_step(
    params: List,
    before: List,
    moved: tuple[List, List],
    moments: Sequence[List],
    steps: List,
    numbers: Tensor,
    on: Switches,
) -> None:
    """The step along the first of `moved`; the square of the second goes into the moment."""
    first, values = moved
    squares, maxima = moments
    lr, _, _, log1, beta2, share2, log2, eps, decay = numbers.unbind()
    counts = list(torch._foreach_add(steps, 1))
    second = top = _squares(_wide(squares, values), values, beta2, share2)
    if maxima:
        top = list(torch._foreach_maximum(_wide(maxima, values), second))
        write(maxima, top)
    roots = [torch.rsqrt(correction) for correction in _correction(counts, log2)]
    sizes = [lr / correction for correction in _correction(counts, log1)]
    below = torch._foreach_add(torch._foreach_mul(torch._foreach_sqrt(top), roots), eps)
    changes = torch._foreach_div(torch._foreach_mul(first, sizes), below)
    write(squares, second)
    write(steps, counts)
    write(params, _along(_shrunk(before, lr, decay, on), changes))


RULES: dict[str, Rule] = {
    "sgd": Rule(_sgd_options, _sgd),
    "rmsprop": Rule(_rmsprop_options, _rmsprop),
    "adam": Rule(_adam_options, _adam, counts=True),
    "critical_adam": Rule(_adam_options, _critical_adam, counts=True),
}
