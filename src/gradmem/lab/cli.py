"""The command line: ``gradmem compare``, ``bound``, ``tasks``, ``optimizers``; thin."""

import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

try:
    import typer
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}; the command line needs: pip install 'gradmem[lab]'") from None

if TYPE_CHECKING:
    from rich.console import Console

    from gradmem.lab.findings import Findings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Ask whether a memory of past gradients helps an optimizer.",
)

OpenReport = Annotated[
    bool, typer.Option("--open/--no-open", help="Open the report in the browser.")
]


def _folder(help_text: str, default: str) -> Any:
    """An option that names a folder; what it is when left out is only told."""
    return typer.Option(help=help_text, show_default=default, file_okay=False)


def _open(page: Path) -> None:
    webbrowser.open(page.resolve().as_uri())


@app.command()
def compare(
    task: Annotated[str, typer.Argument(help="A task; `gradmem tasks` lists them.")],
    optimizers: Annotated[
        str, typer.Option(help="Names with commas; `gradmem optimizers` lists them.")
    ] = "adam,adam_c",
    trials: Annotated[int, typer.Option(help="Tuning trials for each optimizer.")] = 32,
    seeds: Annotated[int, typer.Option(help="Fresh seeds at the best setting.")] = 20,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs per run.", show_default="the task's own")
    ] = None,
    out: Annotated[
        Path | None, _folder("Folder for runs and report.", "gradmem-results/TASK")
    ] = None,
    open_report: OpenReport = False,
) -> None:
    """Tune optimizers equally on TASK, run the best settings on fresh seeds, write a report.

    Finished runs are kept: the same command again, after an interruption too, repeats none.
    """
    # Imported here: `gradmem --help` should not wait for torch.
    from rich.console import Console

    from gradmem.lab import report
    from gradmem.lab.compare import Plan
    from gradmem.lab.compare import compare as carry_out
    from gradmem.lab.findings import findings
    from gradmem.lab.optimizers import get_optimizers
    from gradmem.lab.progress import watch
    from gradmem.lab.store import Store, write_atomically
    from gradmem.lab.tasks import get_task

    console = Console(markup=False, highlight=False)
    try:
        names = [name.strip() for name in optimizers.split(",") if name.strip()]
        chosen = get_task(task)
        wanted = chosen.budget.epochs if epochs is None else epochs
        plan = Plan(chosen, get_optimizers(names), trials, seeds, wanted)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

    folder = out or Path("gradmem-results") / task
    store = Store(
        folder / "runs", warn=lambda line: console.print(f"warning: {line}", soft_wrap=True)
    )
    try:
        with watch(console, plan) as notify:
            comparison = carry_out(plan, store, notify)
    except KeyboardInterrupt:
        console.print(
            f"Interrupted. Finished runs are kept in {store.folder}; the same command continues "
            "from there.",
            soft_wrap=True,
        )
        raise typer.Exit(130) from None

    found = findings(comparison)
    write_atomically(folder / "report.html", report.html_page(found))
    write_atomically(folder / "report.md", report.markdown_page(found))
    write_atomically(folder / "results.csv", report.csv_page(found))
    write_atomically(folder / "overview.svg", report.picture(found))
    _conclude(console, found, folder / "report.html")
    if open_report:
        _open(folder / "report.html")


def _conclude(console: "Console", found: "Findings", page: Path) -> None:
    """The table, the verdict and where the report lies."""
    from gradmem.lab.findings import score_table
    from gradmem.lab.score import caveat
    from gradmem.lab.terminal import grid

    console.print()
    console.print(grid(score_table(found)))
    console.print()
    for line in found.warnings:
        console.print(f"warning: {line}")
    for line in found.verdicts:
        console.print(line, style="bold")
    console.print(caveat(found.comparison))
    console.print(f"\nReport: {page}", soft_wrap=True)


@app.command()
def bound(
    problem: Annotated[
        str,
        typer.Argument(
            help="quadratic, breast-cancer, digits, noise, or a LIBSVM data set: a path or a name."
        ),
    ],
    optimizer: Annotated[str, typer.Option(help="sgd_c, or one the theorem leaves out.")] = "sgd_c",
    policy: Annotated[str, typer.Option(help="Which gradients are kept.")] = "top_norm",
    aggregate: Annotated[str, typer.Option(help="How they are combined.")] = "mean",
    capacity: Annotated[int, typer.Option(help="How many are kept.")] = 10,
    decay: Annotated[float, typer.Option(help="Factor on every priority, every step.")] = 0.99,
    kappa: Annotated[float, typer.Option(help="Weight of the memory.")] = 1.0,
    max_age: Annotated[
        str | None,
        typer.Option(help="Oldest gradient used, or none.", show_default="20; none for noise"),
    ] = None,
    momentum: Annotated[float, typer.Option(help="The theorem leaves it out.")] = 0.0,
    batch_size: Annotated[
        int | None, typer.Option(help="Examples a step.", show_default="all")
    ] = None,
    step: Annotated[
        str, typer.Option(help="closed: 1/(2 L w_max (tau+1)); exact: the largest; or a number.")
    ] = "closed",
    steps: Annotated[
        int | None,
        typer.Option(help="Steps.", show_default="till a thousandth is sure, within seconds"),
    ] = None,
    condition: Annotated[
        float | None, typer.Option(help="L/mu of a quadratic.", show_default="50; 10 for noise")
    ] = None,
    dimension: Annotated[
        int | None, typer.Option(help="Of a quadratic.", show_default="30; 10 for noise")
    ] = None,
    l2: Annotated[
        float | None, typer.Option(help="Penalty of a logistic regression.", show_default="0.1")
    ] = None,
    standardise: Annotated[
        bool | None,
        typer.Option(
            "--standardise/--as-is", help="Features.", show_default="standardise if bundled"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of whatever is random.")] = 0,
    seeds: Annotated[
        int | None, typer.Option(help="Runs of the noise experiment.", show_default="16")
    ] = None,
    data: Annotated[
        Path | None,
        _folder(
            "Folder with libsvm/NAME, plain, .gz or .bz2.", "GRADMEM_DATA, else the user's cache"
        ),
    ] = None,
    out: Annotated[
        Path | None, _folder("Folder for the report.", "gradmem-results/bound-PROBLEM")
    ] = None,
    open_report: OpenReport = False,
) -> None:
    """Run an optimizer on PROBLEM beside the convergence theorem's bound, and adversaries too.

    `noise` instead compares ways to choose gradients under rare, large noise.
    """
    from rich.console import Console

    from gradmem.lab.bound.command import carry_out, parse_age, prepare
    from gradmem.lab.bound.plan import Plan
    from gradmem.lab.bound.sources import Source

    try:
        age = parse_age(max_age, noisy=problem == "noise")
        source = Source(problem, condition, dimension, l2, standardise, data, seed)
        plan = Plan(
            *(optimizer, policy, aggregate, capacity, decay, kappa, age, momentum),
            *(batch_size, step, steps, seed),
        )
        job = prepare(source, plan, seeds)
    except (ValueError, FileNotFoundError) as error:
        raise typer.BadParameter(str(error)) from None
    page = carry_out(job, out, Console(markup=False, highlight=False))
    if open_report:
        _open(page)


@app.command()
def tasks() -> None:
    """List the tasks."""
    from gradmem.lab.tasks import TASKS

    for name, task in TASKS.items():
        typer.echo(f"{name:10} {task.title}")


@app.command()
def optimizers() -> None:
    """List the optimizers and the space each is searched in."""
    from gradmem.lab.optimizers import OPTIMIZERS

    for name, spec in OPTIMIZERS.items():
        typer.echo(name)
        for dimension in spec.space:
            typer.echo(f"    {dimension}")


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
