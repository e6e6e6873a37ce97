"""The commands ``gradmem surface`` and ``gradmem surfaces``; thin."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from gradmem.lab.commands.options import FAILED, print_error


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(surface)
    app.command()(surfaces)


def surface(
    name: Annotated[str, typer.Argument(help="A surface; `gradmem surfaces` lists them.")],
    optimizers: Annotated[
        str, typer.Option(help="Names with commas; `gradmem optimizers` lists them.")
    ] = "sgd,sgd_c,adam,adam_c",
    steps: Annotated[int, typer.Option(help="Steps of every path.")] = 1000,
    lr: Annotated[
        str | None,
        typer.Option(
            help="A rate for all, `adam=0.01,sgd=1e-3`, or `authors`.",
            show_default="the best of one grid",
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option(help='Where paths begin: "0.75,1".', show_default="its own")
    ] = None,
    dimension: Annotated[
        int | None, typer.Option(help="Of a surface for any number.", show_default="2")
    ] = None,
    capacity: Annotated[
        int | None, typer.Option(help="Gradients kept.", show_default="the optimizer's")
    ] = None,
    decay: Annotated[
        float | None, typer.Option(help="Of priorities.", show_default="the optimizer's")
    ] = None,
    aggregate: Annotated[
        str | None, typer.Option(help="How they are combined.", show_default="the optimizer's")
    ] = None,
    kappa: Annotated[
        float | None, typer.Option(help="Weight of the memory.", show_default="the optimizer's")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="Which are kept.", show_default="the optimizer's")
    ] = None,
    noise: Annotated[
        float, typer.Option(help="Standard deviation of noise on every gradient.")
    ] = 0.0,
    tolerance: Annotated[
        float, typer.Option(help="Share of the gap at the start that counts as solved.")
    ] = 1e-3,
    seed: Annotated[int, typer.Option(help="Of whatever is random.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the report.",
            show_default="gradmem-results/surface-NAME",
            file_okay=False,
        ),
    ] = None,
    open_report: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the report in the browser.")
    ] = False,
) -> None:
    """Draw the paths of optimizers on the test function NAME, and compare their losses."""
    # Imported here: `gradmem --help` should not wait for torch.
    from rich.console import Console

    from gradmem.lab.config import refuse_another
    from gradmem.lab.errors import LabError
    from gradmem.lab.surfaces.command import carry_out, prepare

    memory = {
        "capacity": capacity,
        "decay": decay,
        "aggregate": aggregate,
        "kappa": kappa,
        "policy": policy,
    }
    try:
        refuse_another(out, "surface")
        plan = prepare(
            name,
            optimizers,
            rates=lr,
            start=start,
            dimension=dimension,
            memory=memory,
            steps=steps,
            noise=noise,
            tolerance=tolerance,
            seed=seed,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        page = carry_out(plan, out, Console(markup=False, highlight=False))
    except LabError as error:
        print_error(str(error))
        raise typer.Exit(FAILED) from None
    if open_report:
        webbrowser.open(page.resolve().as_uri())


def surfaces() -> None:
    """List the surfaces, with their boxes and minima."""
    from gradmem.lab.surfaces.table import SURFACES

    for name, each in SURFACES.items():
        n = each.dimension or 2
        sides = " x ".join(f"[{low:.5g}, {high:.5g}]" for low, high in dict.fromkeys(each.box(n)))
        size = "any n" if each.dimension is None else "n = 2"
        typer.echo(f"{name:18} {size:6} {sides:26} minimum {each.minimum(n):.7g}")
    typer.echo("Of a surface for any n, box and minimum are those for n = 2.")
