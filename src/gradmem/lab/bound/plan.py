"""The setting of a run and what the theorem promises for it, before anything is run."""

import math
from dataclasses import dataclass

import gradmem
from gradmem import convergence
from gradmem.lab.bound.problems import Problem

THOUSANDTH = 1e-3


@dataclass(frozen=True)
class Plan:
    """What is run: an optimizer of gradmem with its memory options, a step, a number of steps.

    ``step`` is "closed" for 1/(2 L w_max (tau + 1)), "exact" for the largest step the proof covers,
    or a number. ``steps`` None is as many as `default_steps` says.
    """

    optimizer: str = "sgd_c"
    policy: str = "top_norm"
    aggregate: str = "mean"
    capacity: int = 10
    decay: float = 0.99
    kappa: float = 1.0
    max_age: int | None = 20
    momentum: float = 0.0
    batch_size: int | None = None
    step: str = "closed"
    steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        gradmem.MemoryOptions(**self.memory_options())  # type: ignore[arg-type]
        known = gradmem.options(self.optimizer)
        if self.momentum and "momentum" not in known:
            raise ValueError(f"{self.optimizer} has no momentum option; leave --momentum out")
        if not (math.isfinite(self.momentum) and self.momentum >= 0):
            raise ValueError(f"momentum must be a finite number from 0, got {self.momentum:g}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch size must be at least 1, got {self.batch_size}")
        if self.steps is not None and not 1 <= self.steps <= 1_000_000:
            raise ValueError(f"steps must be from 1 to 1,000,000, got {self.steps}")
        if self.step not in ("closed", "exact"):
            _positive_number(self.step)

    @property
    def label(self) -> str:
        """The optimizer's class, as the figures name it."""
        return type_name(self.optimizer)

    @property
    def remembers(self) -> bool:
        """Whether there is a memory at all."""
        return self.capacity > 0 and self.kappa != 0

    @property
    def age_limit(self) -> int | None:
        """The largest age a gradient can be used at; None if there is no limit.

        fifo keeps the last ``capacity`` gradients, whatever ``max_age``.
        """
        if not self.remembers:
            return 0
        if self.policy == "fifo":
            return min(self.capacity, self.max_age or self.capacity)
        return self.max_age

    def memory_options(self) -> dict[str, str | int | float | None]:
        """The options of the memory, as the optimizers take them."""
        names = ("policy", "aggregate", "capacity", "decay", "kappa", "max_age")
        return {name: getattr(self, name) for name in names}

    def optimizer_options(self) -> dict[str, str | int | float | None]:
        """All options but the learning rate. Decay of weights is off: f has its l2 in itself."""
        known = gradmem.options(self.optimizer)
        options = self.memory_options() | {"weight_decay": 0.0, "momentum": self.momentum}
        return {name: value for name, value in options.items() if name in known}


@dataclass(frozen=True)
class Guarantee:
    """What the theorem says on a problem.

    Attributes:
        step: the learning rate.
        w_min, w_max: range of the total weight of an update.
        smoothness, strong_convexity: L and mu.
        age_limit: tau, or None if there is none.
        unmet: why the theorem does not apply, a sentence a reason; empty if it does.
        adversaries: everything but the step is as the theorem wants it, so it covers any selection.
        drawable: the formula can be drawn, be it a promise or not: nothing diverges without delay,
            and its rate is not negative.
    """

    step: float
    smoothness: float
    strong_convexity: float
    w_min: float
    w_max: float
    age_limit: int | None
    unmet: tuple[str, ...]
    adversaries: bool
    drawable: bool

    @property
    def applies(self) -> bool:
        """Whether the bound is a promise."""
        return not self.unmet

    @property
    def rate(self) -> float:
        """The factor by which the bound falls in a step."""
        return convergence.rate(self.step, self.strong_convexity, self.w_min)

    @property
    def steps_to_thousandth(self) -> int:
        """After how many steps the bound is a thousandth of the gap at the start."""
        return convergence.steps_to(
            THOUSANDTH,
            step=self.step,
            strong_convexity=self.strong_convexity,
            w_min=self.w_min,
        )

    def bound(self, steps: int, gap: float) -> float:
        """The bound on the gap after so many steps from ``gap``."""
        return convergence.gap_bound(
            steps, gap, step=self.step, strong_convexity=self.strong_convexity, w_min=self.w_min
        )


def guarantee(problem: Problem, plan: Plan) -> Guarantee:
    """Choose the step and see whether the theorem covers the setting."""
    return guarantee_for(problem.constants, plan)


def guarantee_for(constants: tuple[float, float], plan: Plan) -> Guarantee:
    """The same for a function of which L and mu are known, and nothing else."""
    smoothness, strong_convexity = constants
    w_min, w_max = convergence.weight_range(plan.aggregate, plan.kappa, plan.capacity)
    limit = plan.age_limit
    unmet = convergence.unmet_assumptions(
        aggregate=plan.aggregate,
        kappa=plan.kappa,
        capacity=plan.capacity,
        max_age=limit,
        momentum=plan.momentum,
        adaptive=plan.optimizer != "sgd_c",
        stochastic=plan.batch_size is not None,
        policy=plan.policy,
    )
    sound = not unmet
    # Where no age limit or no positive weight is given, a step is chosen as if: nothing is claimed.
    tau = plan.capacity if limit is None else limit
    weights = (w_min, w_max) if w_min > 0 else (1.0, max(1.0, w_max))
    step = _step(plan.step, smoothness, strong_convexity, tau, *weights)
    covered = convergence.is_admissible(
        step,
        smoothness=smoothness,
        strong_convexity=strong_convexity,
        max_age=tau,
        w_min=weights[0],
        w_max=weights[1],
    )
    if sound and not covered:
        most = _step("exact", smoothness, strong_convexity, tau, *weights)
        unmet.append(f"The step {step:.4g} is longer than the proof covers, {most:.4g}.")
    return Guarantee(
        step=step,
        smoothness=smoothness,
        strong_convexity=strong_convexity,
        w_min=w_min,
        w_max=w_max,
        age_limit=limit,
        unmet=tuple(unmet),
        adversaries=sound and limit is not None and limit > 0,
        drawable=plan.optimizer == "sgd_c"
        and w_min > 0
        and step * w_max * smoothness < 2
        and step * w_min * strong_convexity <= 1,
    )


def default_steps(promise: Guarantee, work: int) -> int:
    """Until the bound has fallen a thousandfold, or as long as some ten seconds allow.

    ``work`` is the size of the matrix times the gradients an adversary looks at.
    """
    most = max(500, min(15_000, 4_500_000_000 // (200_000 + work)))
    return min(promise.steps_to_thousandth, most) if promise.drawable else most


def type_name(optimizer: str) -> str:
    """The class a name of the registry stands for: "SGD_C" for "sgd_c"."""
    names = {name.lower(): name for name in gradmem.__all__}
    return names[optimizer]


def _step(
    text: str, smoothness: float, strong_convexity: float, tau: int, w_min: float, w_max: float
) -> float:
    if text == "closed":
        return convergence.admissible_step(smoothness, tau, w_max)
    if text == "exact":
        return convergence.largest_admissible_step(
            smoothness=smoothness,
            strong_convexity=strong_convexity,
            max_age=tau,
            w_min=w_min,
            w_max=w_max,
        )
    return _positive_number(text)


def _positive_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"step must be closed, exact or a finite number above 0, got {text!r}")
    return number
