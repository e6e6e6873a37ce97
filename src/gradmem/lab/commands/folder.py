"""``gradmem resume`` and ``gradmem report``: what is done with a folder and nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradmem.lab.commands import ablate, options, study, train

if TYPE_CHECKING:
    from gradmem.lab.config import Config

Folder = Annotated[Path, typer.Argument(help="A folder of tune, compare, train or ablate.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(resume)
    app.command()(report)


def resume(
    folder: Folder,
    workers: options.Workers = None,
    retry_crashed: options.RetryCrashed = None,
    open: options.OpenReport = None,
    quiet: options.Quiet = None,
) -> None:
    """Go on with what was begun in FOLDER, as its config.toml says, beside others if they do so."""
    given = {"workers": workers, "retry_crashed": retry_crashed, "open": open, "quiet": quiet}
    from gradmem.lab.ablate.config import AblateConfig
    from gradmem.lab.config import TrainConfig, TuneConfig

    config = _config(folder, given)
    if isinstance(config, TuneConfig):
        study.carry_out(config)
    elif isinstance(config, TrainConfig):
        train.carry_out(config)
    elif isinstance(config, AblateConfig):
        ablate.carry_out(config)


def report(
    folder: Folder,
    open: options.OpenReport = None,
    quiet: options.Quiet = None,
) -> None:
    """Make the report of FOLDER anew from its runs, finished or not; train nothing."""
    from gradmem.lab.ablate.config import AblateConfig
    from gradmem.lab.config import TrainConfig, TuneConfig

    config = _config(folder, {"open": open, "quiet": quiet})
    if isinstance(config, TuneConfig):
        study.report_on(config)
    elif isinstance(config, TrainConfig):
        train.report_on(config)
    elif isinstance(config, AblateConfig):
        ablate.report_on(config)


def _config(folder: Path, given: Mapping[str, object]) -> "Config":
    from gradmem.lab.ablate import config as ablations
    from gradmem.lab.config import read

    with options.bad_input():
        config = ablations.read(folder) or read(folder)
        known = {
            name: value
            for name, value in given.items()
            if value is not None and name in type(config).model_fields
        }
        return config.model_copy(update=known)
