"""The memory in the loggers of lightning's Trainer."""

from __future__ import annotations

from typing import Any

from gradmem import OptionError
from gradmem.integrations.scalars import has_memory, memory_scalars, report_of

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    if error.name != "lightning":
        raise
    raise ModuleNotFoundError(
        "gradmem.integrations.lightning needs the package lightning; install it with "
        "pip install 'gradmem[lightning]'",
        name=error.name,
    ) from error


class MemoryReportCallback(Callback):
    """Logs what the memory holds to every logger of the Trainer, at the Trainer's own steps.

    The names are those of `memory_scalars`; with several optimizers they are counted,
    ``memory/optimizer_0/occupied``, and those without a memory are passed over. Process 0 alone
    reads and logs them. Updates are the same bits with it and without.

    Args:
        every_n_steps: batches with a step from one log to the next; None for the Trainer's
            ``log_every_n_steps``.
        prefix: what every name begins with, before a slash.

    Raises:
        OptionError: every_n_steps is below 1.
        OptionTypeError: when the training begins and no optimizer has a memory.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from gradmem.integrations.lightning import MemoryReportCallback
        >>> options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
        >>> trainer = Trainer(callbacks=[MemoryReportCallback(every_n_steps=10)], **options)
    """

    def __init__(self, every_n_steps: int | None = None, prefix: str = "memory") -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise OptionError(
                f"every_n_steps must be at least 1, or None for the Trainer's log_every_n_steps, "
                f"got {every_n_steps!r}"
            )
        self._every_n_steps = every_n_steps
        self._prefix = prefix
        self._global_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Refuse optimizers without a memory before they have trained for an hour."""
        if not _with_memory(trainer):
            report_of(trainer.optimizers[0])
        self._global_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Log the memory if there was a step, and it is the turn of this one."""
        stepped = trainer.global_step != self._global_step  # not while gradients are accumulated
        self._global_step = trainer.global_step
        every = self._every_n_steps or trainer.log_every_n_steps  # type: ignore[attr-defined]
        # The axis of everything else that is logged: the first batch with a step is at 0, and
        # several optimizers that step in one batch count once. There is no public name for it.
        at = trainer.fit_loop.epoch_loop._batches_that_stepped
        if trainer.is_global_zero and stepped and every and (at + 1) % every == 0:
            scalars = self._scalars(trainer)
            for logger in trainer.loggers:
                logger.log_metrics(scalars, step=at)

    def _scalars(self, trainer: Trainer) -> dict[str, float]:
        if len(trainer.optimizers) == 1:
            return memory_scalars(trainer.optimizers[0], self._prefix)
        found: dict[str, float] = {}
        for i, optimizer in _with_memory(trainer).items():
            found.update(memory_scalars(optimizer, f"{self._prefix}/optimizer_{i}"))
        return found


def _with_memory(trainer: Trainer) -> dict[int, Any]:
    """The Trainer's optimizers that have a memory, by their number."""
    return {i: each for i, each in enumerate(trainer.optimizers) if has_memory(each)}
