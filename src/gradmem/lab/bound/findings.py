"""What came out, in numbers, sentences and tables, for the terminal and every page alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradmem.lab.bound.noise import BACKGROUND, METHODS, PUSH, RARITY, RATES, Level, NoisePlan
from gradmem.lab.bound.plan import THOUSANDTH, Guarantee, Plan
from gradmem.lab.bound.problems import RESOLVED, Array, Problem, Quadratic
from gradmem.lab.bound.simulate import Run
from gradmem.lab.findings import Table


@dataclass(frozen=True)
class Findings:
    """All that the page and the terminal say of one setting."""

    problem: Problem
    plan: Plan
    promise: Guarantee
    runs: tuple[Run, ...]

    @property
    def steps(self) -> int:
        """How many steps were run."""
        return len(self.runs[0].gaps) - 1

    @cached_property
    def bound(self) -> Array | None:
        """The theorem's formula from t = 0; None where it has no meaning at all."""
        if not self.promise.drawable:
            return None
        start = float(self.runs[0].gaps[0])
        return np.array([self.promise.bound(t, start) for t in range(self.steps + 1)])

    @property
    def bound_name(self) -> str:
        """What the line is called; it is a promise only where the theorem applies."""
        return "bound" if self.promise.applies else "bound, not covered"

    def largest_ratio(self, run: Run) -> float | None:
        """The largest gap / bound after the start, where the bound is above the resolution."""
        if self.bound is None:
            return None
        clear = self.bound[1:] >= RESOLVED * self.problem.resolution
        ratios = run.gaps[1:][clear] / self.bound[1:][clear]
        return float(ratios.max()) if ratios.size else None

    def holds(self, run: Run) -> bool | None:
        """Whether no gap exceeds the bound by more than the resolution; None if none is claimed."""
        if self.bound is None or not self.promise.applies:
            return None
        return bool((run.gaps <= self.bound + self.problem.resolution).all())


def title(found: Findings) -> str:
    """The page's heading."""
    return f"{found.plan.label} against the bound: {found.problem.name}"


def verdicts(found: Findings) -> list[str]:
    """What is guaranteed and whether it held, or why nothing is."""
    promise, plan = found.promise, found.plan
    constants = f"L = {promise.smoothness:.4g}, mu = {promise.strong_convexity:.4g}"
    if not promise.applies:
        return [
            f"Nothing is guaranteed for {plan.label} in this setting ({constants}, step "
            f"{promise.step:.4g}).",
            *promise.unmet,
            "It was run all the same; what it did here promises nothing elsewhere.",
        ]
    held = [found.holds(run) for run in found.runs]
    return [
        f"Guaranteed ({constants}): at step {promise.step:.4g} the gap f(x) - f* falls at least by "
        f"the factor {factor(promise)} a step, a thousandfold within "
        f"{promise.steps_to_thousandth:,} steps, {_freedom(promise)}.",
        f"All {len(held)} runs kept within the bound at each of {found.steps:,} steps."
        if all(held)
        else f"{held.count(False)} of {len(held)} runs EXCEEDED the bound: the theorem or this "
        "program is wrong; please report it.",
    ]


def _freedom(promise: Guarantee) -> str:
    if not promise.age_limit:
        return "with no memory in use"
    return f"whichever gradients up to {promise.age_limit} steps old are used"


def factor(promise: Guarantee) -> str:
    """The rate, with two digits of what it lacks to one."""
    lack = promise.step * promise.w_min * promise.strong_convexity
    digits = max(2, 1 - int(np.floor(np.log10(lack)))) if lack > 0 else 2
    return f"{promise.rate:.{digits}f}"


def run_table(found: Findings) -> Table:
    """A row a run, and the bound's own."""
    heading = (
        "run",
        "largest gap / bound",
        "final gap",
        "steps to 1/1000",
        "oldest gradient",
        "holds",
    )
    rows = [_row(found, run) for run in found.runs]
    if found.bound is not None:
        guaranteed = f"{found.promise.steps_to_thousandth:,}"
        rows.append((found.bound_name, "", f"{found.bound[-1]:.3g}", guaranteed, "", ""))
    return Table(heading, tuple(rows))


def _row(found: Findings, run: Run) -> tuple[str, ...]:
    ratio, holds = found.largest_ratio(run), found.holds(run)
    final = float(run.gaps[-1])
    below = abs(final) <= found.problem.resolution
    return (
        run.label,
        "-" if ratio is None else f"{ratio:.4f}" if ratio < 100 else f"{ratio:.3g}",
        "diverged" if np.isinf(final) else "below resolution" if below else f"{final:.3g}",
        _reached(run),
        str(run.oldest),
        "not covered" if holds is None else "yes" if holds else "NO",
    )


def _reached(run: Run) -> str:
    below = np.flatnonzero(run.gaps <= THOUSANDTH * run.gaps[0])
    return f"{int(below[0]):,}" if below.size else "not yet"


def settings_table(found: Findings) -> Table:
    """Everything that would give the same runs again."""
    plan, promise = found.plan, found.promise
    rows = {
        "problem": found.problem.title,
        "L, mu, L / mu": f"{promise.smoothness:.6g}, {promise.strong_convexity:.6g}, "
        f"{promise.smoothness / promise.strong_convexity:.4g}",
        "step": f"{promise.step:.6g} ({_origin(plan)})",
        "memory": ", ".join(f"{k}={v}" for k, v in plan.memory_options().items()),
        "total weight": f"{promise.w_min:.4g} to {promise.w_max:.4g}",
    }
    if plan.momentum:
        rows["momentum"] = f"{plan.momentum:g}"
    if plan.batch_size is not None:
        rows["batch size"] = f"{plan.batch_size}, seed {plan.seed}"
    return Table(("setting", "value"), tuple(rows.items()))


def _origin(plan: Plan) -> str:
    return {
        "closed": "1 / (2 L w_max (tau + 1))",
        "exact": "the largest the proof covers",
    }.get(plan.step, "as asked for")


def method_sentences(found: Findings) -> list[str]:
    """How the numbers were made, so that the page can be judged by itself."""
    problem, promise = found.problem, found.promise
    lines = [
        f"{found.plan.label} is gradmem's own, in float64, "
        + ("on full gradients." if found.plan.batch_size is None else "on batches."),
    ]
    if promise.adversaries:
        lines.append(
            "The adversaries use one gradient a step, of any age up to the limit: always the "
            "oldest, always the one of largest norm, or (greedy) the one after which f is largest. "
            "The first two weigh it with the smallest total weight the memory can have, which is "
            "slowest; the greedy one chooses between the smallest and the largest. Without a "
            "memory the theorem would allow a step "
            f"{(promise.age_limit or 0) + 1:,} times as long: that is what the freedom to use old "
            "gradients costs."
        )
    if isinstance(problem, Quadratic):
        lines.append("L and mu are eigenvalues; f* = 0 by construction.")
    else:
        lines.append(
            "L is the largest eigenvalue of A'A / (4 n), plus l2; mu = l2. f* was found by "
            "Newton's method; it lies at most |grad|^2 / (2 mu) = "
            f"{problem.minimum.accuracy:.1e} below the value used."
        )
    lines.append(
        f"Gaps are known up to {problem.resolution:.1e}: the accuracy of f*, and 64 roundings of "
        "what f* is made from. A run holds if no gap exceeds the bound by more than that; ratios "
        "are taken from the first step on and where the bound is at least "
        f"{RESOLVED:,} times that."
    )
    return lines


@dataclass(frozen=True)
class NoiseFindings:
    """All that is said of the noise experiment."""

    problem: Quadratic
    plan: NoisePlan
    levels: tuple[Level, ...]

    def of(self, method: str) -> list[Level]:
        """The levels of one method, in the order of the rates."""
        return [level for level in self.levels if level.method == method]


def noise_verdicts(found: NoiseFindings) -> list[str]:
    """What a tenth of the learning rate did to each method's level."""
    parts = []
    for method in METHODS:
        first, *_, last = found.of(method)
        parts.append(f"{method} from {first.mean:.2g} to {last.mean:.2g}")
    top, blind = found.of("SGD_C top_norm")[-1], found.of("SGD_C fifo")[-1]
    apart = top.low > blind.high or top.high < blind.low
    conclusion = (
        f"At {RATES[-1]:g}/L choosing by norm keeps {_about(top.mean / blind.mean)} times the "
        "excess of fifo."
        if apart
        else f"At {RATES[-1]:g}/L the intervals of top_norm and fifo overlap."
    )
    return [
        f"From learning rate {RATES[0]:g}/L to {RATES[-1]:g}/L the excess loss went: "
        f"{', '.join(parts)}. {conclusion}"
    ]


def _about(ratio: float) -> str:
    return f"{float(f'{ratio:.2g}'):,g}"


def noise_table(found: NoiseFindings) -> Table:
    """A row a method, a column a learning rate."""
    rows = [
        (method, *(f"{level.mean:.2g} ± {level.mean - level.low:.1g}" for level in levels))
        for method in METHODS
        if (levels := found.of(method))
    ]
    return Table(("excess loss", *(f"lr {rate:g}/L" for rate in RATES)), tuple(rows))


def noise_settings(found: NoiseFindings) -> Table:
    """Everything that would give the same runs again."""
    plan = found.plan
    rows = {
        "problem": found.problem.title,
        "noise": f"Gaussian, length about {BACKGROUND:g}; with probability {RARITY:g} a push of "
        f"{PUSH:g} along one direction, less its mean",
        "memory": ", ".join(f"{k}={v}" for k, v in plan.memory_options().items()),
        "runs": f"{plan.seeds} seeds from seed {plan.seed}, {plan.steps:,} steps",
    }
    return Table(("setting", "value"), tuple(rows.items()))


def noise_method() -> Sequence[str]:
    """How the numbers were made."""
    return [
        "Every run starts at the minimum; the excess loss is the mean of f(x) - f* over the second "
        "half of its steps. All methods and learning rates meet the same noise. Means over the "
        "seeds carry Student's 95% intervals.",
        "The noise has mean zero, but the large pushes all point one way. A memory that keeps "
        "gradients by norm holds little else, so its updates are biased, by as much at any "
        "learning rate. fifo does not look, and keeps the mean.",
    ]
