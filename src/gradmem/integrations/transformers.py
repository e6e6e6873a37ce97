"""The memory among the logs of transformers' Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gradmem.integrations.scalars import memory_scalars, report_of

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise ModuleNotFoundError(
        "gradmem.integrations.transformers needs the package transformers; install it with "
        "pip install 'gradmem[transformers]'",
        name=error.name,
    ) from error

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments


class MemoryReportCallback(TrainerCallback):
    """Logs what the memory holds with every training loss that the Trainer logs.

    The numbers of `memory_scalars` are an entry of their own in ``trainer.state.log_history``, and
    are in every reporter of ``report_to``: TensorBoard shows ``train/memory/occupied`` and so on.
    Process 0 alone reads and logs them. Updates are the same bits with it and without.

    A callback is handed no Trainer, and what one adds to a log comes after the reporters have
    written it: so this one is given the Trainer, and logs through it.

    Args:
        trainer: the Trainer it is added to.
        prefix: what every name begins with, before a slash.

    Raises:
        OptionTypeError: when the training begins and its optimizer has no memory.

    Example:
        >>> import tempfile, torch, gradmem
        >>> from transformers import Trainer, TrainingArguments
        >>> from gradmem.integrations.transformers import MemoryReportCallback
        >>> trainer = Trainer(
        ...     torch.nn.Linear(3, 1),
        ...     TrainingArguments(tempfile.mkdtemp(), report_to="tensorboard"),
        ...     optimizer_cls_and_kwargs=(gradmem.AdamW_C, {"lr": 1e-3, "capacity": 10}),
        ... )
        >>> trainer.add_callback(MemoryReportCallback(trainer))
    """

    def __init__(self, trainer: Trainer, prefix: str = "memory") -> None:
        self._trainer = trainer
        self._prefix = prefix

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        *,
        optimizer: Any = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Refuse an optimizer without a memory before it has trained for an hour."""
        report_of(optimizer)

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        *,
        logs: Mapping[str, Any] | None = None,
        optimizer: Any = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Log the memory after a training loss; not after an evaluation, or itself."""
        if state.is_world_process_zero and "loss" in (logs or {}):
            self._trainer.log(memory_scalars(optimizer, self._prefix))
