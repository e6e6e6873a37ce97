"""``gradmem summary``."""

from pathlib import Path
from typing import Annotated

import typer

from gradmem.lab.commands import options


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(summary)


def summary(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders of `gradmem compare`, or one that holds such folders.",
            show_default="gradmem-results",
        ),
    ] = None,
    field: Annotated[
        list[str] | None,
        options.told(
            "Optimizers to rank, with commas, on the tasks that have them all; again for more.",
            "those that all tasks have",
        ),
    ] = None,
    out: Annotated[
        Path, options.folder_option("Folder for the report.", "gradmem-results/summary")
    ] = Path("gradmem-results/summary"),
    open: options.OpenReport = None,
    quiet: options.Quiet = None,
) -> None:
    """Sum up over tasks: wins, ties, losses, mean ranks, profiles; train nothing."""
    from gradmem.lab.config import refuse_another
    from gradmem.lab.summary.command import carry_out, prepare

    console = options.console_for(quiet=bool(quiet))
    with options.bad_input():
        refuse_another(out, "summary")
        named = [[name.strip() for name in each.split(",")] for each in field or ()]
        found = prepare(folders or [Path("gradmem-results")], named)
        page = carry_out(found, out, console)
    if open:
        options.open_page(page)
