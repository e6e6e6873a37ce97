"""`remember_gradients`: a memory of gradients as an optax transformation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradmem.jax import slots as storage
from gradmem.jax.aggregates import reads_one_slot
from gradmem.jax.checks import check
from gradmem.jax.ledger import Ledger, Move, empty_ledger, take_step
from gradmem.jax.norms import ledger_norms, norm_dtype
from gradmem.jax.options import AggregateName, Norm, Number, Options, PolicyName, Scope


class MemoryState(NamedTuple):
    """What `remember_gradients` keeps: a pytree of arrays, of fixed shapes and types.

    Attributes:
        slots: like the parameters, each (C, *shape): the stored gradients; bfloat16 and float16 as
            their bits, in uint16 and int16: ``slots.view(jnp.bfloat16)`` has the numbers.
        total: like the parameters, in float32 or wider: the sum of the stored gradients.
        ledger: when each gradient was stored, its norm and priority, a row a scope.
    """

    slots: Any
    total: Any
    ledger: Ledger


def remember_gradients(
    capacity: int = 10,
    decay: Number = 0.7,
    aggregate: AggregateName = "mean",
    kappa: Number = 1.0,
    policy: PolicyName = "top_norm",
    max_age: int | None = None,
    scope: Scope = "model",
    norm: Norm = "l2",
    memory_dtype: Any = None,
    *,
    axis_name: Any = None,
) -> optax.GradientTransformation:
    """An optax transformation that combines every gradient with remembered ones.

    u = (g + kappa S) / (n + 1) by default, with g the gradient and S the sum of the n stored ones;
    what comes next in the chain sees u in place of g. Then g is offered to the memory: a full one
    takes it only if its norm is strictly greater than the smallest priority, which it replaces; and
    every priority is multiplied by `decay`. In a chain it stands after clipping and before the
    optimizer, whose weight decay is then never stored.

    Args:
        capacity: gradients kept, an integer from 0; 0 gives exactly the chain without it.
        decay: factor in [0, 1] on every stored gradient's priority at every step; may be an array,
            which is clipped to that range.
        aggregate: "mean" (g + kappa S) / (n + 1), "sum" g + kappa S / n, "mid" (g + kappa S / n) /
            2; "min", "median", "max" g + kappa b, with b the stored gradient of smallest, middle or
            largest priority; "min_mean", "median_mean", "max_mean" (g + kappa b) / 2. "sum", "min",
            "median" and "max" have a total weight of 1 + kappa: at kappa 1 they double the step.
        kappa: weight of the memory, any finite number, negative too; 0 gives exactly the chain
            without it. May be an array: while it is 0 the memory stores nothing and does not age.
        policy: what a full memory keeps: "top_norm" the largest decayed norms, "bottom_norm" the
            smallest norms, "fifo" the last ones.
        max_age: steps after which a stored gradient is dropped, an integer from 1; None for no
            limit.
        scope: what shares one decision per step: "model" (all the transformation sees) or "tensor".
        norm: "l2", or "sum" of the tensors' own L2 norms.
        memory_dtype: what stored gradients are rounded to: "float32", "bfloat16", "float16"
            (numbers beyond its range become its largest), or such a dtype; None for the
            parameter's own.
        axis_name: in `jax.shard_map`, the axis or axes over which every gradient is sharded: norms
            are summed over them. Not for axes that gradients were averaged over, nor under jit,
            where norms are global as they are.

    Returns:
        An `optax.GradientTransformation`; its state is a `MemoryState`, or `optax.EmptyState` where
        the memory is switched off.

    State: `MemoryState`: for every parameter ``slots`` (capacity, *shape) of its type or of
    `memory_dtype`, and ``total`` (*shape) of float32 or wider; for every scope the `Ledger`. It has
    arrays alone, whose shapes and types never change: a step is compiled once.

    Bytes per float32 parameter element: 4 (capacity + 1); with bfloat16 slots 2 capacity + 4.
    ``jax.eval_shape(transformation.init, params)`` says it before anything is allocated.

    Raises:
        OptionError: an option is out of range or unknown.
        OptionTypeError: an option is of the wrong type.
        GradientError: from ``init`` and ``update``: a tensor has no floating-point numbers, or a
            gradient is not of its parameter's shape.
        CheckpointError: from ``update``: the state was made with other options.

    Numerics: the aggregate is computed in float32 or wider and rounded once to the gradient's type.
    Norms are float32 (of float64 gradients float64). Priorities are float64 in either x64 mode,
    held as bits and multiplied in integers: with these norms, every decision is exactly that of the
    definition, of a `decay` that is an array as the number of its own type. The running sum is made
    anew from the slots when its estimated rounding error passes 1e-6 of the stored norms. A step
    whose gradient is zero or not finite leaves what is stored, and its priorities and ages, as they
    were; what is handed on is combined as ever.

    Departs from the authors' programs as the optimizers for PyTorch do, see `gradmem.Adam_C`, and
    from these: no policy that draws numbers, no functions of the user's, no int8.

    Reference: McRae, Parthasarathi, Assran, Chandar, *Memory Augmented Optimizers for Deep
    Learning*, ICLR 2022, arXiv 2106.10708.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from gradmem.jax import memory_report, remember_gradients
        >>> optimizer = optax.chain(remember_gradients(capacity=10, decay=0.7), optax.adam(1e-3))
        >>> params = {"w": jnp.ones(3)}
        >>> state = optimizer.init(params)
        >>> for _ in range(3):
        ...     grads = jax.grad(lambda p: jnp.sum(p["w"] ** 2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> memory_report(state).scopes[0].occupied
        3
    """
    options = Options(capacity, decay, aggregate, kappa, policy, max_age, scope, norm, memory_dtype)
    if not options.enabled:
        return optax.identity()

    def init(params: Any) -> MemoryState:
        return _empty(params, options)

    def update(updates: Any, state: MemoryState, params: Any = None) -> tuple[Any, MemoryState]:
        del params
        return _step(updates, state, options, axis_name)

    return optax.GradientTransformation(init, update)


def _empty(params: Any, options: Options) -> MemoryState:
    leaves, structure = _flatten(params)
    made = [storage.allocate(leaf, options.capacity, options.memory_dtype) for leaf in leaves]
    rows = len(leaves) if options.scope == "tensor" else 1
    return MemoryState(
        slots=structure.unflatten(slots for slots, _ in made),
        total=structure.unflatten(total for _, total in made),
        ledger=empty_ledger(rows, options.capacity, norm_dtype([total for _, total in made])),
    )


def _step(
    updates: Any, state: MemoryState, options: Options, axis_name: Any
) -> tuple[Any, MemoryState]:
    """Combine the gradients with the memory as it stands, then offer them to it."""
    totals, structure = _flatten(state.total)
    if not totals:
        return updates, state
    slots, gradients = structure.flatten_up_to(state.slots), structure.flatten_up_to(updates)
    check(gradients, slots, state.ledger, options)
    gradients = [None if g is None else jnp.asarray(g) for g in gradients]
    norms = ledger_norms(gradients, options, state.ledger.norm.dtype, axis_name)
    moves, ledger = jax.vmap(lambda row, norm: take_step(row, norm, options))(state.ledger, norms)
    each, one_slot = _for_each(moves, len(totals)), reads_one_slot(options.aggregate)
    leaving, stored, totals = storage.fetch(
        slots, totals, each, moves.renew.any(), one_slot=one_slot
    )
    combined = [
        None if tensor[0] is None else storage.combine(*tensor)
        for tensor in zip(gradients, stored, totals, each, strict=True)
    ]
    exchanged = map(storage.exchange, gradients, leaving, slots, totals, each)
    kept, sums = zip(*exchanged, strict=True)
    after = MemoryState(structure.unflatten(kept), structure.unflatten(sums), ledger)
    return structure.unflatten(combined), after


def _for_each(moves: Move, tensors: int) -> list[Move]:
    """The move of every tensor, of the ledger it belongs to."""
    rows = len(moves.write)
    return [Move(*(part[i % rows] for part in moves)) for i in range(tensors)]


def _flatten(tree: Any) -> tuple[list[Any], Any]:
    return jax.tree.flatten(tree)
