"""``gradmem sparsify``."""

from pathlib import Path
from typing import Annotated

import typer

from gradmem.lab.commands.options import (
    FAILED,
    Data,
    Quiet,
    bad_input,
    console_for,
    ends_in_sentences,
    folder_option,
    print_error,
    told,
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(sparsify)


def sparsify(
    task: Annotated[
        str,
        typer.Argument(
            help="digits or mnist, with convolutions; or a task of accuracy with its own model."
        ),
    ],
    methods: Annotated[
        str | None,
        told(
            "Names with commas: BASE-diagonal, BASE-plain, BASE-subgradient; bases are adamw, "
            "adamw_c, adam, adam_c.",
            "all of adamw and adamw_c",
        ),
    ] = None,
    regularizer: Annotated[
        str, typer.Option(help="group_lasso, group_linf or group_mcp.")
    ] = "group_lasso",
    penalties: Annotated[
        list[str] | None,
        told(
            "LOW:HIGH:COUNT for all, or of a kind: plain=0.01:1:6; again for another.",
            "a range for each kind",
        ),
    ] = None,
    lr: Annotated[
        str | None, told("A learning rate for all, or several to choose from.", "3e-4,...,3e-2")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each penalty.")] = 4,
    tuning_seeds: Annotated[int, typer.Option(help="Runs of each learning rate.")] = 2,
    epochs: Annotated[int, typer.Option(help="Epochs per run.")] = 25,
    batch_size: Annotated[int | None, told("Examples per step.", "the task's own")] = None,
    examples: Annotated[int | None, told("Of those to train on.", "all")] = None,
    threshold: Annotated[
        float, typer.Option(help="Learning rates up to which a subgradient's channel is zero.")
    ] = 1.0,
    within: Annotated[float, typer.Option(help="Points of accuracy that may be lost.")] = 1.0,
    workers: Annotated[
        int | None, told("Processes at work.", "as many as cores", "--workers", "-j")
    ] = None,
    data: Data = None,
    out: Annotated[
        Path | None, folder_option("Folder for everything.", "gradmem-results/sparsify-TASK")
    ] = None,
    quiet: Quiet = None,
) -> None:
    """How many channels can training make zero, and what does it cost in accuracy?

    Trains TASK with a range of penalties on its channels, by proximal steps in two metrics and by
    the subgradient, and measures the model that is left. About three minutes on two cores.
    """
    from gradmem.lab.config import refuse_another
    from gradmem.lab.errors import ConfigError, LabError
    from gradmem.lab.sparsify.command import carry_out, prepare

    console = console_for(quiet=bool(quiet))
    with bad_input():
        refuse_another(out, "sparsify")
        try:
            job = prepare(
                task,
                methods=methods,
                regularizer=regularizer,
                penalties=penalties or (),
                lr=lr,
                seeds=seeds,
                tuning_seeds=tuning_seeds,
                epochs=epochs,
                batch_size=batch_size,
                examples=examples,
                threshold=threshold,
                within=within,
                workers=workers,
                data=data,
                out=out,
            )
        except ConfigError:
            raise
        except LabError as error:
            print_error(str(error))
            raise typer.Exit(FAILED) from None
    interrupted = (
        f"Interrupted. Finished runs are kept in {job.folder / 'runs'}; the same command goes on."
    )
    with ends_in_sentences(console, interrupted):
        carry_out(job, console)
