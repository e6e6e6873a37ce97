"""``gradmem bound``."""

from pathlib import Path
from typing import Annotated

import typer

from gradmem.lab.commands.options import (
    OpenReport,
    console_for,
    ends_in_sentences,
    folder_option,
    open_page,
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(bound)


def bound(
    problem: Annotated[
        str,
        typer.Argument(
            help="quadratic, breast-cancer, digits, noise, or a LIBSVM data set: a path or a name; "
            "libsvm:FILE for what `gradmem compare` minimises on it."
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
        folder_option(
            "Folder with libsvm/NAME, plain, .gz or .bz2.", "GRADMEM_DATA, else the user's cache"
        ),
    ] = None,
    out: Annotated[
        Path | None, folder_option("Folder for the report.", "gradmem-results/bound-PROBLEM")
    ] = None,
    open_report: OpenReport = None,
) -> None:
    """Run an optimizer on PROBLEM beside the convergence theorem's bound, and adversaries too.

    `noise` instead compares ways to choose gradients under rare, large noise.
    """
    from gradmem.lab.bound.command import carry_out, parse_age, prepare
    from gradmem.lab.bound.plan import Plan
    from gradmem.lab.bound.sources import Source
    from gradmem.lab.config import refuse_another

    try:
        refuse_another(out, "bound")
        age = parse_age(max_age, noisy=problem == "noise")
        source = Source(problem, condition, dimension, l2, standardise, data, seed)
        plan = Plan(
            *(optimizer, policy, aggregate, capacity, decay, kappa, age, momentum),
            *(batch_size, step, steps, seed),
        )
        job = prepare(source, plan, seeds)
    except (ValueError, FileNotFoundError) as error:
        raise typer.BadParameter(str(error)) from None
    console = console_for(quiet=False)
    with ends_in_sentences(console, "Interrupted; nothing is written."):
        page = carry_out(job, out, console)
    if open_report:
        open_page(page)
