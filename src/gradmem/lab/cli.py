"""The command line: ``gradmem compare digits``, ``gradmem tasks``, ``gradmem optimizers``."""

import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
        Path | None,
        typer.Option(
            help="Folder for runs and report.",
            show_default="gradmem-results/TASK",
            file_okay=False,
        ),
    ] = None,
    open_report: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the report in the browser.")
    ] = False,
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
        webbrowser.open((folder / "report.html").resolve().as_uri())


def _conclude(console: "Console", found: "Findings", page: Path) -> None:
    """The table, the verdict and where the report lies."""
    from rich import box
    from rich.table import Table

    from gradmem.lab.findings import score_table
    from gradmem.lab.score import caveat

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    scores = score_table(found)
    for name, *cells in zip(scores.heading, *scores.rows, strict=True):
        # Headings wrap between words, cells never: all of it fits 80 columns.
        width = max(len(text) for text in (*cells, *name.split()))
        table.add_column(name, width=width, justify="right" if table.columns else "left")
    for row in scores.rows:
        table.add_row(*row)
    console.print()
    console.print(table)
    console.print()
    for line in found.warnings:
        console.print(f"warning: {line}")
    for line in found.verdicts:
        console.print(line, style="bold")
    console.print(caveat(found.comparison))
    console.print(f"\nReport: {page}", soft_wrap=True)


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
