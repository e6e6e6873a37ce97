"""What the docstrings of the optimizers have in common, written once and filled in by a decorator.

A line of a class's docstring that is nothing but a name in braces stands for that paragraph of
`PARAGRAPHS`, at the line's own indentation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

Class = TypeVar("Class", bound=type)

_PLACEHOLDER = re.compile(r"^( *)\{(\w+)\}$", re.MULTILINE)

# {base} is the class without a memory, {base_bytes} what it keeps.
PARAGRAPHS = {
    "how_it_remembers": """\
The memory is combined as it stands before g is offered to it, so g never counts twice. By
default a full memory takes g only if its priority is strictly greater than the smallest, which
it replaces.""",
    "params": """\
params: parameters, named parameters, or groups; groups may have options of their own.""",
    "not_differentiable": """\
``differentiable=True`` is refused, as stored gradients are constants.""",
    "fused_option": """\
fused: True for one pass over memory and parameters together, by kernels built on first use; it
    rounds otherwise. None takes torch's fused kernel on the CPU, if `foreach` is None too.""",
    "memory_options": """\
capacity: gradients kept, from 0; 0 gives exactly {base}.
decay: factor in [0, 1] on every stored gradient's priority at every step.
aggregate: "mean" (g + kappa S) / (n + 1), "sum" g + kappa S / n, "mid" (g + kappa S / n) / 2,
    with S the sum of the n stored gradients; "min", "median", "max" g + kappa b, with b the
    stored gradient of smallest, middle or largest priority; "min_mean", "median_mean",
    "max_mean" (g + kappa b) / 2; or a function, see `AggregateFunction`. "sum", "min", "median"
    and "max" have a total weight of 1 + kappa: at kappa 1 they double the step.
kappa: weight of the memory, any finite number, negative too; 0 gives exactly {base}.
policy: what a full memory keeps. "top_norm" the largest decayed norms, "bottom_norm" the
    smallest norms, "fifo" the last ones, "random" g in place of any of equal probability,
    "reservoir" a uniform sample of all so far, "proportional" g in place of one drawn with
    weight 1 - norm / sum of norms. With m the mean of the memory, "mean_diverse" takes g with
    probability min(1, |g - m| / |m|), "cosine_diverse" with (1 - cos(g, m)) / 2,
    "cosine_similar" with (1 + cos(g, m)) / 2, in place of the smallest priority. Or a
    function, see `PolicyFunction`.
scope: what shares one decision per step: "model" (all groups of equal memory options),
    "group" or "tensor".
norm: "l2", or "sum" of the tensors' own L2 norms.
max_age: steps after which a stored gradient is dropped, from 1; None for no limit.
seed: of the policies that draw numbers, an integer from 0. Equal seeds make equal choices, on
    every rank and after a resume; the global generator is left alone.
memory_dtype: what stored gradients are rounded to: "float32", "bfloat16", "float16" (numbers
    beyond its range become its largest), "int8" (in blocks of 256, off by 1/254 of the block's
    largest magnitude at most), or such a torch.dtype; None for the parameter's own.
memory_device: "cpu" to keep stored gradients in the host's memory, and only their running sum
    beside the parameters; None for both there.""",
    "memory_state": """\
State added to ``state[p]``, allocated once at the first gradient: ``memory_slots`` (capacity,
*shape) of the parameter's type or `memory_dtype`, ``memory_sum`` (*shape) of float32 or wider,
with "int8" ``memory_scales`` (capacity, elements / 256) float32, and the ledger, equal in all
parameters of a scope: ``memory_priority``, ``memory_norm`` (capacity,) float64,
``memory_birth`` (capacity,) int64, ``memory_counters`` (4,) int64, ``memory_drift`` () float64.""",
    "memory_bytes": """\
Bytes per float32 parameter element: 4 (capacity + 1) beside {base}'s {base_bytes}; with
bfloat16 slots 2 capacity + 4, with int8 1.016 capacity + 4; see `memory_bytes`.""",
    "memory_errors": """\
Raises:
    OptionError: an option is out of range, unknown, or contradicts another.
    OptionTypeError: an option is of the wrong type.
    GradientError: a parameter or gradient is not a dense tensor.""",
    "memory_numerics": """\
Numerics: the aggregate is computed in float32 or wider and rounded once to the parameter's
type. The running sum is made anew from the slots when its rounding error passes 1e-6 of the
stored norms; on an accelerator, where asking would wait, every max(16, capacity) steps. Equal
devices and thread counts give equal bits, also after a resume. A step whose gradient is zero
or not finite leaves what is stored, and its priorities and ages, as they were.""",
    "memory_departures": """\
Departs from the authors' programs: the admission threshold is the exact minimum; the norm is
the L2 norm of the whole gradient unless ``norm="sum"``; zero, NaN and Inf are never stored; the
memory survives a resume.""",
    "memory_reference": """\
Reference: McRae, Parthasarathi, Assran, Chandar, *Memory Augmented Optimizers for Deep
Learning*, ICLR 2022, arXiv 2106.10708.""",
}


def documented(*, base: str, base_bytes: str) -> Callable[[Class], Class]:
    """A decorator that fills in the placeholders of a class's docstring.

    Args:
        base: name of the class without a memory.
        base_bytes: what that keeps, in bytes per float32 parameter element.

    Raises:
        KeyError: a placeholder is unknown.

    Example:
        >>> @documented(base="SGD", base_bytes="0 or 4")
        ... class Example:
        ...     '''An optimizer.
        ...
        ...     {memory_bytes}
        ...     '''
        >>> print(Example.__doc__)
        An optimizer.
        <BLANKLINE>
            Bytes per float32 parameter element: 4 (capacity + 1) beside SGD's 0 or 4; with
            bfloat16 slots 2 capacity + 4, with int8 1.016 capacity + 4; see `memory_bytes`.
        <BLANKLINE>
    """

    def paragraph(found: re.Match[str]) -> str:
        indentation, name = found.groups()
        text = PARAGRAPHS[name].format(base=base, base_bytes=base_bytes)
        return "\n".join(indentation + line for line in text.splitlines())

    def fill(cls: Class) -> Class:
        if cls.__doc__ is not None:  # python -OO leaves none
            cls.__doc__ = _PLACEHOLDER.sub(paragraph, cls.__doc__)
        return cls

    return fill
