"""What ``gradmem bound`` does: check the input, run, write, say."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from rich.console import Console

from gradmem.lab.bound import noise, pages
from gradmem.lab.bound.findings import Findings, NoiseFindings
from gradmem.lab.bound.noise import METHODS, NoisePlan
from gradmem.lab.bound.pages import Page
from gradmem.lab.bound.plan import Guarantee, Plan, default_steps, guarantee
from gradmem.lab.bound.problems import Logistic, Problem
from gradmem.lab.bound.simulate import everything
from gradmem.lab.bound.sources import Source, make, quadratic
from gradmem.lab.store import write_atomically
from gradmem.lab.terminal import grid

NOISE_DIMENSION, NOISE_CONDITION = 10, 10.0
DEFAULT_AGE = 20


@dataclass(frozen=True)
class Job:
    """What is to be run, checked: a name for its folder, and the run that ends in a page."""

    name: str
    run: Callable[[Console], Page]


def prepare(source: Source, plan: Plan, seeds: int | None) -> Job:
    """Check everything that can be checked before anything is run.

    Raises:
        ValueError, FileNotFoundError: the input cannot be used.
    """
    if source.name == "noise":
        return _noise_job(source, plan, seeds)
    if seeds is not None:
        raise ValueError("--seeds is for `gradmem bound noise`; a bound needs no repeats")
    return _bound_job(source, plan)


def carry_out(job: Job, out: Path | None, console: Console) -> Path:
    """Run, write the pages, print the result; returns the page to open."""
    page = job.run(console)
    folder = out or Path("gradmem-results") / f"bound-{job.name}"
    write_atomically(folder / "report.html", pages.as_html(page))
    write_atomically(folder / "report.md", pages.as_markdown(page))
    write_atomically(folder / "figure.svg", pages.as_picture(page))
    _say(console, page, folder / "report.html")
    return folder / "report.html"


def parse_age(text: str | None, *, noisy: bool) -> int | None:
    """The age limit as typed: a number, or "none"."""
    if text is None:
        return None if noisy else DEFAULT_AGE
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"max age must be a number of steps or none, got {text!r}") from None


def _bound_job(source: Source, plan: Plan) -> Job:
    problem = make(source)
    if plan.batch_size is not None and not isinstance(problem, Logistic):
        raise ValueError(
            f"--batch-size means nothing for {problem.name!r}, which has no examples; "
            "`gradmem bound noise` adds noise to a quadratic"
        )
    promise = guarantee(problem, plan)
    steps = plan.steps or default_steps(promise, _work(problem, promise))

    def run(console: Console) -> Page:
        runs = []
        with console.status("running") as status:
            for each in everything(problem, plan, promise, steps):
                runs.append(each)
                status.update(f"{each.label} done")
        return pages.bound_page(Findings(problem, plan, promise, tuple(runs)))

    return Job(problem.name, run)


def _work(problem: Problem, promise: Guarantee) -> int:
    """Multiplications a step, roughly, of the adversary who looks at everything."""
    entries = getattr(problem.matrix, "nnz", problem.matrix.size)
    return 6 * int(entries) + 12 * int(problem.matrix.shape[0]) * ((promise.age_limit or 0) + 1)


def _noise_job(source: Source, plan: Plan, seeds: int | None) -> Job:
    for name in ("l2", "standardise", "data"):
        if getattr(source, name) is not None:
            raise ValueError(f"--{name} means nothing for 'noise'")
    defaults = Plan()
    for name in ("optimizer", "policy", "momentum", "batch_size", "step"):
        if getattr(plan, name) != getattr(defaults, name):
            raise ValueError(
                f"--{name.replace('_', '-')} means nothing for 'noise', which compares SGD with "
                "SGD_C by policy at fixed learning rates"
            )
    shared = {field.name for field in fields(NoisePlan)} & {field.name for field in fields(Plan)}
    chosen = {name: getattr(plan, name) for name in shared if getattr(plan, name) is not None}
    setting = NoisePlan(**chosen | ({} if seeds is None else {"seeds": seeds}))
    problem = quadratic(
        NOISE_DIMENSION if source.dimension is None else source.dimension,
        NOISE_CONDITION if source.condition is None else source.condition,
        source.seed,
    )

    def run(console: Console) -> Page:
        levels = []
        with console.status("running") as status:
            for method in METHODS:
                levels += noise.levels(problem, setting, method)
                status.update(f"{method} done")
        return pages.noise_page(NoiseFindings(problem, setting, tuple(levels)))

    return Job("noise", run)


def _say(console: Console, page: Page, path: Path) -> None:
    for i, line in enumerate(page.verdicts):
        console.print(line, style="bold" if i == 0 else None)
    console.print()
    console.print(grid(page.results))
    console.print(f"\nReport: {path}", soft_wrap=True)
