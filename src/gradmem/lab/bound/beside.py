"""A comparison beside the theorem: its chosen settings again, on full gradients of the same loss.

The theorem is about exact gradients, and a comparison's runs take them of batches. What it says is
therefore checked on the loss that these runs minimise, from the same start and at the same
settings, with all training examples in every step.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import gradmem
from gradmem import convergence
from gradmem.lab.bound import simulate
from gradmem.lab.bound.findings import Findings
from gradmem.lab.bound.plan import Guarantee, Plan, guarantee_for
from gradmem.lab.bound.problems import FreeIntercept, HasProblem, Logistic
from gradmem.lab.compare import Comparison, Evaluated
from gradmem.lab.optimizers import Spec
from gradmem.lab.session import check_task

FAMILY = ("sgd", "sgd_c")  # what takes steps along weighted gradients and nothing else
FOLLOWED = {"momentum", "policy", "aggregate", "capacity", "decay", "kappa", "max_age"}
WORK, STEPS = 4_000_000_000, 5_000  # multiplications, some seconds of them; steps at most


@dataclass(frozen=True)
class Setting:
    """An optimizer's chosen setting, on full gradients.

    ``found`` is None if it was not run; ``unmet`` then says why, and otherwise why nothing is
    promised, a sentence a reason. ``longest`` is the longest learning rate that the proof would
    cover, with ages up to ``age`` where the setting has no limit. ``inside`` is the same memory at
    the theorem's own step, and with that limit, where the setting is not covered and this is all
    that it lacks.
    """

    spec: Spec
    rate: float
    unmet: tuple[str, ...]
    found: Findings | None = None
    longest: float = math.nan
    age: int = 0
    inside: Findings | None = None

    @property
    def covered(self) -> bool:
        """Whether the theorem promises something."""
        return self.found is not None and not self.unmet


@dataclass(frozen=True)
class Beside:
    """All that a report says of the theorem.

    Attributes:
        problem: the loss that the runs minimise.
        settings: of the optimizers the theorem is about.
        others: labels of those it leaves out.
        examples: how many train.
        batch: how many a step of the comparison takes.
        asked: steps of a run of the comparison, of which as many are made here as time allows.
    """

    problem: Logistic
    settings: tuple[Setting, ...]
    others: tuple[str, ...]
    examples: int
    batch: int
    asked: int

    @property
    def mu_is_known(self) -> bool:
        """Whether mu is told by the problem, before any run."""
        return not isinstance(self.problem, FreeIntercept)

    @property
    def drawn(self) -> list[Setting]:
        """The settings that were run."""
        return [each for each in self.settings if each.found is not None]


def beside(comparison: Comparison) -> Beside | None:
    """The settings on full gradients; None if the task is no such problem, or is not at hand.

    Raises:
        TaskError: the task's data are there, and damaged.
    """
    plan, task = comparison.plan, comparison.plan.task
    chosen = [each for each in comparison.results if each.spec.name in FAMILY]
    if not chosen or not isinstance(task, HasProblem) or task.missing():
        return None
    check_task(task)
    problem = task.convex_problem()
    if problem is None:
        return None
    asked = plan.epochs * math.ceil(problem.examples / plan.examples_a_step)
    steps = min(asked, affordable(problem))
    return Beside(
        problem=problem,
        settings=tuple(_setting(each, problem, steps) for each in chosen),
        others=tuple(e.spec.label for e in comparison.results if e.spec.name not in FAMILY),
        examples=problem.examples,
        batch=min(plan.examples_a_step, problem.examples),
        asked=asked,
    )


def affordable(problem: Logistic) -> int:
    """Steps that some seconds allow: products with the matrix, and a memory of as many numbers."""
    entries = int(getattr(problem.matrix, "nnz", problem.matrix.size))
    return max(500, min(STEPS, WORK // (200_000 + 6 * entries + 100 * problem.start.size)))


def _setting(each: Evaluated, problem: Logistic, steps: int) -> Setting:
    options = dict(each.options)
    rate = float(options.pop("lr", gradmem.options("sgd_c")["lr"]))
    if strange := _not_followed(options):
        return Setting(each.spec, rate, strange)
    plan = _plan(each.spec, options, rate)
    setting = judged(each.spec, problem, plan, simulate.memory(problem, plan, rate, steps))
    return setting if setting.covered else replace(setting, inside=_inside(problem, plan, steps))


def _inside(problem: Logistic, plan: Plan, steps: int) -> Findings | None:
    """The setting as little changed as the theorem asks for; None if that is not enough."""
    limit = (plan.capacity or None) if plan.age_limit is None else plan.max_age
    changed = replace(plan, step="closed", max_age=limit)
    outline = guarantee_for((problem.smoothness, problem.smoothness), changed)  # but for mu
    if outline.unmet:
        return None
    run = simulate.memory(problem, changed, outline.step, steps)
    mu = _mu(problem, run)
    if not mu > 0:
        return None
    return Findings(problem, changed, guarantee_for((problem.smoothness, mu), changed), (run,))


def _mu(problem: Logistic, run: simulate.Run) -> float:
    """That of the problem, or what held along the run where none is known before."""
    return problem.strong_convexity or min(run.pl, problem.smoothness)


def _not_followed(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Why a setting is not run here: what its options do beside those that are."""
    usual = gradmem.options("sgd_c")
    return tuple(
        f"{name}={value} is none of the options that are looked at here: lr, "
        f"{', '.join(sorted(FOLLOWED))}."
        for name, value in options.items()
        if name not in FOLLOWED and value != usual.get(name)
    )


def _plan(spec: Spec, options: Mapping[str, Any], rate: float) -> Plan:
    """What `gradmem bound` would be asked; plain SGD is SGD_C without a memory."""
    known = {name: gradmem.options("sgd_c")[name] for name in FOLLOWED}
    known |= {name: value for name, value in options.items() if name in FOLLOWED}
    if spec.base is None:
        known["capacity"] = 0
    return Plan(**known, step=repr(rate))


def judged(spec: Spec, problem: Logistic, plan: Plan, run: simulate.Run) -> Setting:
    """What the theorem says of a run."""
    rate, mu = float(plan.step), _mu(problem, run)
    if not mu > 0:
        return Setting(spec, rate, ("No step had a gap that could be told from 0.",))
    promise = guarantee_for((problem.smoothness, mu), plan)
    age = plan.capacity if promise.age_limit is None else promise.age_limit
    return Setting(
        spec=spec,
        rate=rate,
        unmet=promise.unmet,
        found=Findings(problem, plan, promise, (run,)),
        longest=_longest(promise, age, negative=plan.remembers and plan.kappa < 0),
        age=age,
    )


def _longest(promise: Guarantee, age: int, *, negative: bool) -> float:
    """The longest step that meets the proof's condition; NaN where the weights are wrong."""
    if promise.w_min <= 0 or negative:
        return math.nan
    return convergence.largest_admissible_step(
        smoothness=promise.smoothness,
        strong_convexity=promise.strong_convexity,
        max_age=age,
        w_min=promise.w_min,
        w_max=promise.w_max,
    )
