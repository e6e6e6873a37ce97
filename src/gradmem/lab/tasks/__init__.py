"""The tasks by name. A new task is one file here and one line in ``TASKS``."""

from collections.abc import Mapping
from types import MappingProxyType

from gradmem.lab.tasks.base import Task
from gradmem.lab.tasks.digits import Digits

__all__ = ["TASKS", "Task", "get_task"]

TASKS: Mapping[str, type[Task]] = MappingProxyType({task.name: task for task in (Digits,)})


def get_task(name: str) -> Task:
    """The task called ``name``; ValueError with the known names otherwise."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; choose one of: {', '.join(sorted(TASKS))}")
    return TASKS[name]()
