"""What an ablation is asked to be; kept in its folder, so that `gradmem resume` can go on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from gradmem.lab.config import (
    NAME,
    AtLeastOne,
    AtLeastZero,
    Config,
    Dimension,
    FewSeeds,
    Names,
    Switch,
    as_toml,
    assemble,
    changes,
    file_name,
    read_toml,
    refuse_another,
)
from gradmem.lab.errors import ConfigError
from gradmem.lab.files import write_atomically


class AblateConfig(Config):
    """An optimizer at every value of one or two axes, tuned afresh at each."""

    command: ClassVar[str] = "ablate"

    axes: Names = ()
    values: dict[str, list[Any]] = Field(default_factory=dict)
    optimizer: Names = ("adam_c",)
    held: dict[str, Any] = Field(default_factory=dict)
    space: dict[str, dict[str, Dimension]] = Field(default_factory=dict)
    trials: AtLeastOne = 16
    tuning_seeds: FewSeeds = 1
    seeds: AtLeastOne = 10
    sampler_seed: AtLeastZero = 0
    workers: AtLeastOne = 1
    retry_crashed: Switch = False

    @property
    def folder(self) -> Path:
        """Where the results go."""
        name = f"ablate-{file_name(self.task)}-{'-'.join(self.axes)}"
        return self.out or Path("gradmem-results") / name


def read(folder: Path) -> AblateConfig | None:
    """The config of the ablation that was begun in ``folder``; None if none was.

    Raises:
        ConfigError: it cannot be read.
    """
    file = folder / NAME
    if not file.is_file() or read_toml(file).get("command") != AblateConfig.command:
        return None
    return assemble(AblateConfig, file, {"out": folder})


def keep(config: AblateConfig, warn: Callable[[str], None]) -> None:
    """Write the config into its folder; say what is other than it was there before.

    Raises:
        ConfigError: the folder is another command's.
    """
    refuse_another(config.folder, config.command)
    try:
        before = read(config.folder)
    except ConfigError as error:
        before = None
        warn(f"{error}; it is written anew")
    if before is not None and (changed := changes(before, config)):
        said = ", ".join(changed)
        warn(f"the options in {config.folder} change: {said}; runs that still fit are kept")
    write_atomically(config.folder / NAME, as_toml(config))
