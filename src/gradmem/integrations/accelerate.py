"""The memory in the trackers of accelerate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradmem.integrations.scalars import memory_scalars

if TYPE_CHECKING:
    from accelerate import Accelerator  # type: ignore[import-untyped]


def log_memory(accelerator: Accelerator, optimizer: Any, step: int, prefix: str = "memory") -> None:
    """Log what the memory holds to the trackers of ``Accelerator(log_with=...)``.

    The main process alone reads and logs it: call it on all of them, or on that one.

    Args:
        accelerator: after its ``init_trackers``.
        optimizer: with a memory, prepared or not.
        step: where on the trackers' axis, as in ``accelerator.log``.
        prefix: what every name begins with, before a slash.

    Raises:
        OptionTypeError: there is no memory in it.

    Example:
        >>> import tempfile, torch, gradmem
        >>> from accelerate import Accelerator
        >>> from gradmem.integrations.accelerate import log_memory
        >>> folder = tempfile.mkdtemp()
        >>> accelerator = Accelerator(log_with="tensorboard", project_dir=folder, cpu=True)
        >>> accelerator.init_trackers("run")
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = accelerator.prepare(gradmem.AdamW_C([weight], capacity=2))
        >>> log_memory(accelerator, optimizer, step=1)
        >>> accelerator.end_training()
    """
    if accelerator.is_main_process:
        accelerator.log(memory_scalars(optimizer, prefix), step=step)
