"""``gradmem tasks``, ``gradmem optimizers`` and ``gradmem data``: what there is."""

from typing import Annotated

import typer

from gradmem.lab.commands import options


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(tasks)
    app.command()(optimizers)
    app.command("data")(data_sets)


def tasks(data: options.Data = None) -> None:
    """List the tasks, and say whose data are not here."""
    from gradmem.lab.data.catalogue import DATA_SETS
    from gradmem.lab.tasks import TASKS, get_task

    fetched = {name for name, each in DATA_SETS.items() if each.can_be_fetched}
    width = max(map(len, TASKS))
    for name, task in TASKS.items():
        missing = get_task(name, data).missing()
        remedy = f": gradmem data {task.needs}" if task.needs in fetched else ""
        where = f" (not here{remedy})" if missing else ""
        typer.echo(f"{name:{width}} {task.title}{where}")
    typer.echo("Your own: gradmem compare my_module:my_task, or houses.csv:price")


def optimizers(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Which; or your own: module:attribute, module:attribute+memory.",
            show_default="all of the table",
        ),
    ] = None,
) -> None:
    """List the optimizers and the space each is searched in."""
    from gradmem.lab.optimizers import OPTIMIZERS, get_optimizers

    asked = [name.strip() for each in names or () for name in each.split(",")]
    with options.bad_input():
        specs = get_optimizers(asked) if asked else tuple(OPTIMIZERS.values())
    for spec in specs:
        base = f", on top of {spec.base}" if spec.base else ""
        missing = f" (not installed; {spec.missing})" if spec.missing else ""
        typer.echo(f"{spec.typed}: {spec.label}{base}{missing}")
        for dimension in spec.space:
            typer.echo(f"    {dimension}")
    if not asked:
        typer.echo("Your own: my_module:MyOptimizer; with a memory, my_module:MyOptimizer+memory")


def data_sets(
    names: Annotated[
        list[str] | None, typer.Argument(help="Data sets to fetch.", show_default="list them")
    ] = None,
    data: options.Data = None,
) -> None:
    """List the data sets and whether they are here; fetch those named, with their checksums."""
    from gradmem.lab.data.__main__ import main

    raise typer.Exit(main(names or [], data))
