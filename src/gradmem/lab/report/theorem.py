"""What the report says and draws of the convergence theorem, on tasks that it is about."""

import math

from gradmem.lab import figures
from gradmem.lab.axes import plain
from gradmem.lab.bound.beside import Beside, Setting
from gradmem.lab.bound.figures import Line, gaps_and_bounds
from gradmem.lab.bound.findings import Findings as Run
from gradmem.lab.bound.findings import factor
from gradmem.lab.drawing import Draw, panel, slim
from gradmem.lab.findings import Findings
from gradmem.lab.markup import figure

HEADING = "Beside the theorem"
FULL = "full gradients: gap f(x) − f* by step"


def sentences(found: Findings) -> list[str]:
    """What the theorem is about, and what it says of each setting; empty if of none."""
    about = found.theorem
    if about is None:
        return []
    said = [_batches(about), _constants(about)]
    said += [_setting(each, about) for each in about.settings]
    return said + _others(about)


def panels(found: Findings) -> list[str]:
    """The runs' training loss above its minimum, and the same settings on full gradients."""
    about = found.theorem
    if about is None:
        return []
    lines = len(found.scores)
    height = 3.3 + 0.14 * max(0, lines - 11)
    gaps = figures.curves(found.comparison, "train_loss", less=about.problem.minimum.value)
    shown = [
        figure(
            f"Batches of {about.batch}: training loss less its minimum f*",
            slim(panel(gaps, height)),
            "Mean over the batches of an epoch, while the weights move; median over the seeds. The "
            "theorem's bound is not for these.",
        )
    ]
    for heading, draw in drawings(found):
        caption = _of_the_steps(about) + _dots(about)
        shown.append(figure(heading[0].upper() + heading[1:], slim(panel(draw)), caption))
    return shown


def drawings(found: Findings) -> list[tuple[str, Draw]]:
    """The gaps on full gradients beside the bounds, with the heading, if there are any."""
    about = found.theorem
    if about is None or not about.drawn:
        return []
    looks = figures.looks(found.comparison)
    lines = []
    for each in about.drawn:
        look, label = looks[each.spec.name], plain(each.spec.label)
        style = {"color": look.colour, "linestyle": look.dashes, "linewidth": 1.8}
        assert each.found is not None
        lines.append(Line(each.found, label, style))
        if each.inside is not None:
            lines.append(Line(each.inside, f"{label}, covered", {**style, "linewidth": 0.9}))
    return [(FULL, gaps_and_bounds(lines))]


def _of_the_steps(about: Beside) -> str:
    assert about.drawn[0].found is not None
    made = about.drawn[0].found.steps
    if made < about.asked:
        return f"The first {made:,} of {about.asked:,} steps, one run each."
    return f"As many steps as above, {made:,}, one run each."


def _dots(about: Beside) -> str:
    inside = any(each.inside for each in about.settings)
    if not inside and not any(each.covered for each in about.settings):
        return " No setting is covered by the theorem, so there is no bound to draw."
    thin = " Thin: at the step of the theorem, where the chosen setting is not covered."
    return f"{thin * inside} Dots: the theorem's bound, which its line may not cross."


def _batches(about: Beside) -> str:
    """What the theorem makes of the gradients that the comparison took."""
    if about.batch == about.examples:
        return (
            f"The runs above took all {about.examples:,} training examples in every step, so they "
            "had the exact gradients that the theorem (docs/convergence.md) is about."
        )
    return (
        "The theorem (docs/convergence.md) is about exact gradients. The runs above took theirs "
        f"from batches of {about.batch} of the {about.examples:,} training examples. For these it "
        "promises, at its own steps, only that the mean gap falls to a floor: w_max / w_min times "
        "the mean square of the noise in what is used, over mu, and nobody knows that noise "
        "beforehand. So the same loss was minimised once more, from the same start at the same "
        "settings, with all examples in every step and in float64."
    )


def _constants(about: Beside) -> str:
    problem = about.problem
    least = f"f* = {problem.minimum.value:.6g}"
    if about.mu_is_known:
        return f"The loss has L = {problem.smoothness:.4g}, mu = {problem.l2:.4g} and {least}."
    return (
        f"The loss has L = {problem.smoothness:.4g} and {least}, but no mu that is known "
        "beforehand, for the penalty leaves the intercept out. The proof uses mu at the points of "
        "a run and nowhere else, so the one that held along each run is taken: the bound is then "
        "true of that run, and promises nothing for another."
    )


def _setting(each: Setting, about: Beside) -> str:
    """Whether a setting is covered, with the numbers that decide it, and what the run did."""
    label, found = each.spec.label, each.found
    if found is None:
        return f"{label} is not looked at. {' '.join(each.unmet)}"
    if not each.covered:
        reasons = " ".join(each.unmet)
        missed = f"{label} is not covered. {reasons}{_compared(each)} {_course(found)}"
        return missed + _inside(each, about)
    return (
        f"{label} is covered: its learning rate {each.rate:.4g} is at most {each.longest:.4g}, "
        f"the proof's limit {_ages(each)}{_measured(found, about)}. {_kept(found)} {_course(found)}"
    )


def _inside(each: Setting, about: Beside) -> str:
    """The same memory where the theorem covers it."""
    inside = each.inside
    if inside is None:
        return ""
    assert each.found is not None
    limit = inside.plan.max_age
    limited = f" and max_age={limit}" * (limit != each.found.plan.max_age)
    return (
        f" At the theorem's own step, lr={inside.promise.step:.4g}{limited}, it is covered"
        f"{_measured(inside, about)}. {_kept(inside)} {_course(inside)}"
    )


def _measured(found: Run, about: Beside) -> str:
    mu = found.promise.strong_convexity
    return "" if about.mu_is_known else f", with mu = {mu:.4g} along the run"


def _kept(found: Run) -> str:
    """What the bound asked for, and whether the run kept it."""
    asked = f"Its gap had to fall at least by the factor {factor(found.promise)} a step, and"
    if not found.holds(found.runs[0]):
        return f"{asked} DID NOT: the theorem or this program is wrong; please report it."
    return f"{asked} did (largest gap / bound: {_ratio(found.largest_ratio(found.runs[0]))})."


def _ages(each: Setting) -> str:
    """What the longest step depends on."""
    assert each.found is not None
    if each.age == 0:
        return "without a memory"
    weight = f"a total weight up to {each.found.promise.w_max:.3g}"
    return f"with gradients up to {each.age} steps old and {weight}"


def _compared(each: Setting) -> str:
    """The learning rate against the proof's, where something else is wrong already."""
    if math.isnan(each.longest):
        return ""
    if any("longer than" in reason for reason in each.unmet):
        return f" That is the limit {_ages(each)}."
    how = "short enough" if each.rate <= each.longest else "too long"
    limit = f"the proof's limit being {each.longest:.4g} {_ages(each)}"
    return f" Were that met, its learning rate {each.rate:.4g} would be {how}, {limit}."


def _course(found: Run) -> str:
    gaps = found.runs[0].gaps
    if math.isinf(gaps[-1]):
        return "With full gradients it diverged."
    floor = found.problem.resolution
    end = f"{gaps[-1]:.3g}" if gaps[-1] > floor else f"less than {floor:.1g}"
    return f"With full gradients its gap went from {gaps[0]:.3g} to {end} in {found.steps:,} steps."


def _ratio(value: float | None) -> str:
    return "below what can be told" if value is None else f"{value:.3f}"


def _others(about: Beside) -> list[str]:
    if not about.others:
        return []
    names = ", ".join(about.others)
    return [f"Outside the theorem at any setting, for momentum or a scale of their own: {names}."]
