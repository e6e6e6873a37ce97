"""``gradmem bench``."""

from pathlib import Path
from typing import Annotated

import typer

from gradmem.lab.commands.options import (
    FAILED,
    bad_input,
    console_for,
    ends_in_sentences,
    folder_option,
    told,
)

OPTIMIZERS = (
    "Names with commas: adam-fused, adam, adam_c-fused, adam_c, adam_cm-fused, adam_cm, "
    "adamw-fused, adamw, adamw_c-fused, adamw_c, sgd, sgd_c-fused, sgd_c, rmsprop, "
    "rmsprop_c-fused, rmsprop_c, schedulefree, ademamix, lion, adam8bit."
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(bench)


def bench(
    sets: Annotated[
        list[str] | None,
        typer.Argument(
            help="Sets of parameters: mlp, 11m, 25m, 100m; 1b on an accelerator.",
            show_default="mlp 11m",
        ),
    ] = None,
    model: Annotated[
        str | None,
        told("Your own: package:function that returns a module or its parameters.", "none"),
    ] = None,
    optimizers: Annotated[str | None, told(OPTIMIZERS, "all of them")] = None,
    capacity: Annotated[
        list[int] | None, told("Gradients kept; again for another capacity.", "10")
    ] = None,
    memory_dtype: Annotated[
        list[str] | None,
        told("Type of the stored gradients; again for another, none for their own.", "their own"),
    ] = None,
    memory_device: Annotated[
        str | None, told("Where they are stored.", "beside the parameters")
    ] = None,
    device: Annotated[str | None, told("cpu or cuda.", "cuda if there is one")] = None,
    threads: Annotated[int | None, told("Of torch.", "torch's own")] = None,
    rounds: Annotated[int, typer.Option(help="In each, two steps of every optimizer.")] = 15,
    clip: Annotated[
        bool, typer.Option("--clip", help="Clip gradients before every step, and time both.")
    ] = False,
    out: Annotated[
        Path | None,
        folder_option("Folder for bench.json, .md and .svg; goes on with what is there.", "none"),
    ] = None,
) -> None:
    """Measure what a step costs here, in time and bytes: ours beside torch's and others'.

    Optimizers take turns on the same parameters, so that times are given as ratios, with 95%
    intervals. Without SETS or a model, two small sets: about a minute on two cores.
    """
    from gradmem.lab.bench.command import carry_out, prepare

    console = console_for(quiet=False)
    with bad_input():
        job = prepare(
            sets or (),
            model=model,
            optimizers=optimizers,
            capacities=capacity or (10,),
            memory_dtypes=memory_dtype or (),
            memory_device=memory_device,
            device=device,
            threads=threads,
            rounds=rounds,
            clip=clip,
        )
    then = f"the same command goes on with what is in {out}" if out else "nothing is kept"
    with ends_in_sentences(console, f"Interrupted; {then}."):
        whole = carry_out(job, out, console)
    if not whole:
        raise typer.Exit(FAILED)
