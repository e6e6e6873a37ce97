"""Tasks from elsewhere: ``module:attribute`` or ``file.py:attribute``, ``file.csv:column``, and
``libsvm:file``.
"""

import inspect
import re
from pathlib import Path
from typing import Any

from gradmem.lab.importing import attribute_of, digest, module_at
from gradmem.lab.tasks.base import Budget, Metric, Task
from gradmem.lab.tasks.convex import LibsvmFile
from gradmem.lab.tasks.tabular import CsvTask

TABLES = (".csv", ".tsv", ".txt")
PACKED = (".gz", ".bz2", ".zip")
LIBSVM = "libsvm:"  # before a file, whose name shows nothing
NEEDED: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "title": (str,),
    "metric": (Metric,),
    "budget": (Budget,),
    "target": (float, int),
}


def load(name: str, folder: Path | None = None) -> Task:
    """The task that ``module:attribute``, ``file.csv:column`` or ``libsvm:file`` stands for.

    A module, or ``file.py``, is looked for in the current folder first, then where Python looks.
    The attribute is a task, a class of tasks, or a function without arguments that returns a task.
    After ``libsvm:`` comes a path, or a name in the data folder, and never an attribute.

    Args:
        name: where the task is.
        folder: the data folder; None for ``GRADMEM_DATA`` or the user's cache.

    Raises:
        ValueError: there is no such module, attribute, file or column, the module cannot be
            imported, or what is there is not a task; says which, and what to do.
    """
    if name.startswith(LIBSVM):
        return _from_libsvm(name.removeprefix(LIBSVM), folder)
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise ValueError(
            f"{name!r} has to be MODULE:ATTRIBUTE, such as my_package:my_task, FILE.py:ATTRIBUTE, "
            "FILE.csv:COLUMN or libsvm:FILE"
        )
    if is_table(place):
        return _from_table(Path(place), attribute)
    module = module_at(place)
    found = attribute_of(module, attribute, "tasks", lambda each: isinstance(each, Task))
    task = _as_task(name, found)
    task.name = getattr(task, "name", "") or attribute
    task.title = getattr(task, "title", "") or task.name
    task.origin = digest(module)
    _check(name, task)
    return task


def is_table(place: str) -> bool:
    """Whether this is a file of separated values, by its name.

    >>> is_table("my.houses.csv.gz"), is_table("my.houses")
    (True, False)
    """
    path = Path(place.lower())
    return (Path(path.stem) if path.suffix in PACKED else path).suffix in TABLES


def _from_table(path: Path, column: str) -> Task:
    try:
        return CsvTask(path, column)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None


def _from_libsvm(file: str, folder: Path | None) -> Task:
    if not file:
        raise ValueError("libsvm: has to be followed by a LIBSVM file, a path or a name")
    try:
        return LibsvmFile(file, folder)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None


def _as_task(name: str, found: Any) -> Task:
    if isinstance(found, type) and not issubclass(found, Task):
        raise ValueError(f"{name} is the class {found.__name__}, which is not a gradmem Task")
    made = found
    if not isinstance(found, Task) and callable(found):
        try:
            inspect.signature(found).bind()
        except TypeError as error:
            raise ValueError(
                f"{name} cannot be called without arguments ({error}); give a task, a class or "
                "function that needs none, or make one: my_task = MyTask(...)"
            ) from None
        try:
            made = found()
        except Exception as error:
            raise ValueError(f"{name}() raised {type(error).__name__}: {error}") from error
    if not isinstance(made, Task):
        what = "returns" if made is not found else "is"
        raise ValueError(
            f"{name} {what} a {type(made).__name__}, not a gradmem Task; derive it from "
            "gradmem.lab.tasks.Task, or make a gradmem.lab.tasks.SimpleTask"
        )
    return made


def _check(name: str, task: Task) -> None:
    """ValueError unless everything is there that a run and a report need."""
    for attribute, kinds in NEEDED.items():
        value = getattr(task, attribute, None)
        if not isinstance(value, kinds):
            raise ValueError(
                f"{name}: its {attribute!r} has to be a {kinds[0].__name__}, not {value!r:.40}"
            )
    if not re.fullmatch(r"[\w.+-]+", task.name):
        raise ValueError(
            f"{name} is called {task.name!r}; the name becomes part of file names and may hold "
            "letters, digits and . _ + - only"
        )
