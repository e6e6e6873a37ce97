"""What an ablation is asked to be; kept in its folder, so that `gradmem resume` can go on."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from gradmem.lab.config import (
    NAME,
    AtLeastOne,
    Config,
    Dimension,
    Names,
    as_toml,
    assemble,
    changes,
    file_name,
    read_toml,
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
    tuning_seeds: Annotated[int, Field(ge=1, le=100)] = 1
    seeds: AtLeastOne = 10
    sampler_seed: Annotated[int, Field(ge=0)] = 0
    workers: AtLeastOne = 1
    retry_crashed: bool = False

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
    """Write the config into its folder; say what is other than it was there before."""
    try:
        before = read(config.folder)
    except ConfigError as error:
        before = None
        warn(f"{error}; it is written anew")
    if before is not None and (changed := changes(before, config)):
        said = ", ".join(changed)
        warn(f"the options in {config.folder} change: {said}; runs that still fit are kept")
    write_atomically(config.folder / NAME, as_toml(config))
