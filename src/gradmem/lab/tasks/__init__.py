"""The tasks by name. A new task is one file here and one line in ``TASKS``.

`get_task` finds these, and a user's own: ``my_package:my_task``, ``houses.csv:price``, or
``libsvm:a9a``.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from gradmem.lab.errors import hint
from gradmem.lab.importing import is_foreign
from gradmem.lab.tasks.base import (
    Batch,
    Budget,
    FixedSplits,
    Metric,
    Splits,
    Task,
    evaluate,
    seeded,
)
from gradmem.lab.tasks.breast_cancer import BreastCancer
from gradmem.lab.tasks.cifar import CIFAR_TASKS
from gradmem.lab.tasks.diabetes import Diabetes
from gradmem.lab.tasks.digits import Digits
from gradmem.lab.tasks.files import FromFiles
from gradmem.lab.tasks.generated import GeneratedLogreg, GeneratedMlp
from gradmem.lab.tasks.libsvm import LIBSVM_TASKS
from gradmem.lab.tasks.loading import is_table, load
from gradmem.lab.tasks.mnist import FASHION_MNIST_TASKS, MNIST_TASKS
from gradmem.lab.tasks.multinli import MULTINLI_TASKS
from gradmem.lab.tasks.multiwoz import Multiwoz22Lstm, MultiwozLstm
from gradmem.lab.tasks.ptb import PtbLstm, PtbLstmPart, PtbTransformer
from gradmem.lab.tasks.python_text import PythonText
from gradmem.lab.tasks.roberta_decoder import MultiwozRoberta
from gradmem.lab.tasks.schema_guided import SgdLstm
from gradmem.lab.tasks.sick import SICK_TASKS
from gradmem.lab.tasks.simple import SimpleTask
from gradmem.lab.tasks.snli import SNLI_TASKS
from gradmem.lab.tasks.surface_points import Beale, GoldsteinPrice, SixHumpCamel
from gradmem.lab.tasks.tables import Recipe
from gradmem.lab.tasks.tabular import CsvTask
from gradmem.lab.tasks.tabular_sets import TABLE_SETS
from gradmem.lab.tasks.tiny_shakespeare import TinyShakespeare
from gradmem.lab.tasks.varied import Range, Varied
from gradmem.lab.tasks.wikitext2 import Wikitext2Lstm
from gradmem.lab.tasks.wine import Wine

__all__ = [
    "TASKS",
    "Batch",
    "Budget",
    "CsvTask",
    "FixedSplits",
    "Metric",
    "Range",
    "Recipe",
    "SimpleTask",
    "Splits",
    "Task",
    "Varied",
    "evaluate",
    "get_task",
    "seeded",
]

_ALL: tuple[type[Task], ...] = (
    # always there
    *(Digits, BreastCancer, Wine, Diabetes, GeneratedLogreg, GeneratedMlp, PythonText),
    *(Beale, GoldsteinPrice, SixHumpCamel),
    # from the data folder
    *(*MNIST_TASKS, *FASHION_MNIST_TASKS, *CIFAR_TASKS, *LIBSVM_TASKS, *TABLE_SETS),
    *(PtbLstm, PtbLstmPart, PtbTransformer, Wikitext2Lstm, TinyShakespeare),
    *(*SNLI_TASKS, *MULTINLI_TASKS, *SICK_TASKS),
    *(MultiwozLstm, Multiwoz22Lstm, SgdLstm, MultiwozRoberta),
)

TASKS: Mapping[str, type[Task]] = MappingProxyType({task.name: task for task in _ALL})


def get_task(name: str, folder: Path | None = None) -> Task:
    """The task called ``name``, or the one that ``module:attribute`` or ``file.csv:column`` is.

    Args:
        name: one of ``TASKS``, or where a task of one's own is.
        folder: the data folder for tasks that read files; None for ``GRADMEM_DATA`` or the user's
            cache.

    Raises:
        ValueError: there is none; says what there is, or what is wrong with it.
    """
    if is_foreign(name):
        found = load(name, folder)
        found.asked = name
        return found
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; {_instead(name)}")
    task = TASKS[name]
    return task(folder) if issubclass(task, FromFiles) else task()


def _instead(name: str) -> str:
    """What a name that is none may have been meant as."""
    if is_table(name):
        return f"to predict a column of a table, name it: {name}:COLUMN"
    own = "my_package:my_task, file.csv:column or libsvm:file"
    return f"{hint(name, sorted(TASKS))} `gradmem tasks` lists them. Or name your own: {own}"
