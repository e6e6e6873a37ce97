"""What lies beside the runs of a study and belongs into its report."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import gradmem
from gradmem.lab import config as configs
from gradmem.lab.errors import StoreError

RECORDS = "records*.jsonl"


@dataclass(frozen=True)
class Origin:
    """Where a comparison comes from; all of it may be missing.

    Args:
        toml: the options, as a file that ``gradmem compare --config`` reads.
        records: by name of their file, what a `gradmem.Recorder` wrote down in a run.
    """

    toml: str | None = None
    records: dict[str, list[gradmem.StepRecord]] = field(default_factory=dict)


def read(folder: Path) -> Origin:
    """What ``folder`` holds: the config, and records of memories.

    Raises:
        StoreError: a file of records holds something else.
    """
    config = folder / configs.NAME
    try:
        found = {_name(path): gradmem.Recorder.read(path) for path in sorted(folder.glob(RECORDS))}
    except gradmem.CheckpointError as error:
        raise StoreError(str(error)) from None
    return Origin(
        toml=config.read_text(encoding="utf-8") if config.is_file() else None,
        records={name: records for name, records in found.items() if records},
    )


def _name(path: Path) -> str:
    """``adam_c`` for ``records-adam_c.KEY.jsonl``; the whole name of another file."""
    of_a_run = re.fullmatch(r"(.+)\.[0-9a-f]{16}", path.stem)
    return (of_a_run[1] if of_a_run else path.stem).removeprefix("records-")
