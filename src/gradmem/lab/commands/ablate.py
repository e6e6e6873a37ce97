"""``gradmem ablate``; what `resume` and `report` do with its folders."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradmem.lab.commands import options
from gradmem.lab.commands.options import told

if TYPE_CHECKING:
    from gradmem.lab.ablate.config import AblateConfig


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(ablate)


def ablate(
    task: options.TaskName = None,
    axes: Annotated[
        list[str] | None,
        typer.Argument(
            help="One or two of capacity, decay, aggregate, policy, scope, max_age, kappa, and the "
            "task's own: depth, label-noise, separation, minority; or batch alone.",
            show_default=False,
        ),
    ] = None,
    config: options.ConfigFile = None,
    values: Annotated[
        list[str] | None,
        typer.Option(help="What an axis is set to: capacity=0,5,10; again for another axis."),
    ] = None,
    optimizer: Annotated[
        str | None,
        told("With a memory, or your own: module:attribute+memory; several with commas.", "adam_c"),
    ] = None,
    held: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="An option of the memory that is held, decay=0.9; again for more."
        ),
    ] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(
            "--space", help="What is searched in every cell alike: adam.lr=1e-5:1, or adam.eps=1e-8"
        ),
    ] = None,
    trials: Annotated[int | None, told("Settings tried for each cell and base.", "16")] = None,
    tuning_seeds: options.TuningSeeds = None,
    seeds: Annotated[int | None, told("Fresh seeds at the best setting.", "10")] = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    sampler_seed: options.SamplerSeed = None,
    timeout: options.Timeout = None,
    checkpoint_seconds: options.CheckpointSeconds = None,
    workers: options.Workers = None,
    retry_crashed: options.RetryCrashed = None,
    tensorboard: options.TensorBoard = None,
    data: options.Data = None,
    out: Annotated[
        Path | None,
        options.folder_option("Folder for everything.", "gradmem-results/ablate-TASK-AXES"),
    ] = None,
    open: options.OpenReport = None,
    quiet: options.Quiet = None,
) -> None:
    """Set one or two options of a memory to every value, tune each afresh, compare with the base.

    `gradmem ablate digits kappa`, or `digits capacity decay` for a map, or `generated-mlp
    label-noise` for what changes the task. Every value has the same trials as the base, at the same
    learning rates. Finished runs are kept: the same command again,
    after an interruption too, repeats none.
    """
    given = dict(locals())
    from gradmem.lab.ablate.axis import parse_values
    from gradmem.lab.ablate.config import AblateConfig
    from gradmem.lab.config import assemble, parse_settings, parse_spaces

    with options.bad_input():
        file = given.pop("config")
        parsed = {
            "axes": tuple(axes) if axes else None,
            "values": parse_values(values),
            "held": parse_settings(held, "--set"),
            "space": parse_spaces(space),
        }
        made = assemble(AblateConfig, file, {**given, **parsed})
    carry_out(made)


def carry_out(config: "AblateConfig") -> None:
    """Make the runs and the report."""
    from gradmem.lab.ablate.command import carry_out

    console = options.console_for(quiet=config.quiet)
    with options.sentences(console, config.folder):
        page = carry_out(config, console)
    if config.open:
        options.open_page(page)


def report_on(config: "AblateConfig") -> None:
    """Say again what the runs in a folder give, without making any."""
    from gradmem.lab.ablate.command import report_on

    console = options.console_for(quiet=config.quiet)
    with options.sentences(console, config.folder):
        page = report_on(config, console)
    if config.open:
        options.open_page(page)
