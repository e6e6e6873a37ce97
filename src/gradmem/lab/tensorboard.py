"""The curves of every run for TensorBoard, whose package is optional."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gradmem.lab.compare import Progress
from gradmem.lab.errors import ConfigError
from gradmem.lab.files import cannot_write
from gradmem.lab.run import RunConfig
from gradmem.lab.store import name_of
from gradmem.lab.study import Watcher
from gradmem.lab.training import Epoch


def check_tensorboard(folder: Path | None) -> None:
    """Refuse before anything runs if its package is missing.

    Raises:
        ConfigError: TensorBoard is asked for and not installed.
    """
    if folder is not None and find_spec("tensorboard") is None:
        raise ConfigError("--tensorboard needs the package tensorboard: pip install tensorboard")


def with_tensorboard(watcher: Watcher, folder: Path | None) -> Watcher:
    """``watcher``, and beside it the curves in ``folder`` if one is given."""
    return watcher if folder is None else Logged(watcher, folder)


class Logged:
    """Writes what passes by, each run to a folder of its own."""

    def __init__(self, inner: Watcher, folder: Path) -> None:
        self._inner = inner
        self._folder = folder
        self._writer: Any = None

    def begin(self, config: RunConfig) -> None:
        """Open the run's log."""
        from torch.utils.tensorboard import SummaryWriter

        try:
            self._writer = SummaryWriter(str(self._folder / name_of(config)))
            text = ", ".join(f"{name}={value}" for name, value in config.options.items())
            self._writer.add_text("options", text)
        except OSError as error:
            raise cannot_write(self._folder, error) from error
        self._inner.begin(config)

    def epoch(self, config: RunConfig, epoch: Epoch) -> None:
        """One point on each curve."""
        values = {
            "loss/train": epoch.train_loss,
            "loss/validation": epoch.validation_loss,
            "score/validation": epoch.validation_score,
        }
        try:
            for name, value in values.items():
                self._writer.add_scalar(name, value, epoch.step)
        except OSError as error:
            raise cannot_write(self._folder, error) from error
        self._inner.epoch(config, epoch)

    def done(self, progress: Progress) -> None:
        """Close it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._inner.done(progress)
