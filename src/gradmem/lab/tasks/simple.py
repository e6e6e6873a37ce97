"""A task of one's own in a few lines: a model, data, a loss."""

from collections.abc import Callable, Mapping, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, default_collate

from gradmem.lab.tasks.base import Batch, Budget, FixedSplits, Metric, Task, seeded
from gradmem.lab.tasks.splitting import hold_out
from gradmem.lab.tasks.supervised import ACCURACY, accuracy

Loss = Callable[[Any, Tensor], Tensor]
Score = Callable[[Any, Tensor], float]
Forward = Callable[[nn.Module, Any], Any]

HELD_OUT = 0.2  # of the training examples, for a part that is not given


class SimpleTask(Task):
    """What a plain training script has, as a task.

    Args:
        model: makes a fresh model; called once a run, under the run's seed.
        train: examples to train on: ``(inputs, targets)``, a map-style dataset, or a `Batch`.
            ``inputs`` is a tensor or an array, or a mapping or tuple of these.
        validation: examples to choose by; None to hold out a fifth of ``train``.
        test: examples to report on; None to hold out a fifth of ``train``.
        loss: mean loss from the model's outputs and the targets.
        metric: what to report; ``accuracy`` unless given.
        score: the metric's value from outputs and targets; needed with a metric of one's own.
        forward: outputs from model and inputs; a mapping is given as keywords, a tuple as
            positional arguments unless told otherwise.
        target: level of the validation metric that counts as "got there".
        epochs: how often a run goes through the training examples.
        batch_size: examples a step.
        evaluate_batch_size: examples at a time where nothing is trained; None for a whole part.
        clip_norm: norm to which gradients are clipped; None for no clipping.
        name: what the task is called; None for what it is called where it is loaded from.
        title: what the report says it is; None for the name.
        version: raise it when something changes that is not in the task's own file, such as data it
            reads: old runs then expire.

    Raises:
        TypeError: an argument is of the wrong kind, such as a model in place of what makes one.
        ValueError: inputs and targets differ in length, or there are very few.

    >>> inputs = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> task = SimpleTask(
    ...     model=lambda: nn.Linear(4, 2), train=(inputs, inputs.sum(1) > 0), target=0.9
    ... )
    >>> [len(part) for part in (task.data().train, task.data().validation, task.data().test)]
    [60, 20, 20]
    """

    def __init__(
        self,
        *,
        model: Callable[[], nn.Module],
        train: Any,
        validation: Any = None,
        test: Any = None,
        loss: Loss = cross_entropy,
        metric: Metric = ACCURACY,
        score: Score | None = None,
        forward: Forward | None = None,
        target: float,
        epochs: int = 10,
        batch_size: int = 32,
        evaluate_batch_size: int | None = None,
        clip_norm: float | None = None,
        name: str | None = None,
        title: str | None = None,
        version: int = 1,
    ) -> None:
        if isinstance(model, nn.Module) or not callable(model):
            raise TypeError(
                f"model has to be a function or a class that makes a fresh model, got {model!r:.60}"
                ": every run begins with new weights"
            )
        if score is None and metric is not ACCURACY:
            raise TypeError(f"the metric {metric.name!r} needs a score(outputs, targets)")
        for key, value in (("epochs", epochs), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{key} must be at least 1, got {value}")
        self.name, self.title = name or "", title or name or ""
        self.metric, self.target, self.version = metric, target, version
        self.budget = Budget(epochs, batch_size)
        self.evaluate_batch_size, self.clip_norm = evaluate_batch_size, clip_norm
        self._make, self._loss, self._score = model, loss, score or accuracy
        self._forward = forward or call
        self._splits = _parts(train, validation, test)

    def data(self) -> FixedSplits:
        """The examples given, or held out of them."""
        return self._splits

    def model(self, seed: int) -> nn.Module:
        """What ``model()`` makes under the seed."""
        with seeded(seed):
            made = self._make()
        if not isinstance(made, nn.Module):
            raise TypeError(f"model() has to return a torch.nn.Module, got {made!r:.60}")
        return made

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss given, of the outputs."""
        return self._loss(self._forward(model, batch.inputs), batch.targets)

    def score(self, model: nn.Module, batch: Batch) -> float:
        """The score given, of the outputs."""
        return float(self._score(self._forward(model, batch.inputs), batch.targets))


def call(model: nn.Module, inputs: Any) -> Any:
    """The model's outputs: a mapping is given as keywords, a tuple as positional arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def _parts(train: Any, validation: Any, test: Any) -> FixedSplits:
    whole = as_batch(train, "train")
    rest = np.arange(len(whole))
    count = int(HELD_OUT * len(whole))
    given: list[Batch] = []
    for part, name in ((test, "test"), (validation, "validation")):
        if part is not None:
            given.append(as_batch(part, name))
            continue
        if not count:
            raise ValueError(f"train has {len(whole)} examples, too few to hold out {name} ones")
        rest, held = hold_out(rest, count)
        given.append(whole[torch.from_numpy(held)])
    tested, validated = given
    return FixedSplits(whole[torch.from_numpy(rest)], validated, tested)


def as_batch(examples: Any, name: str) -> Batch:
    """``(inputs, targets)``, a map-style dataset or a `Batch` as a batch of all of it.

    Raises:
        TypeError: it is none of these.
        ValueError: inputs and targets differ in length, or there are none.
    """
    if isinstance(examples, Dataset) and isinstance(examples, Sized):
        if not len(examples):
            raise ValueError(f"{name} has no examples")
        examples = default_collate([examples[row] for row in range(len(examples))])
    if isinstance(examples, Batch):
        batch = examples
    elif isinstance(examples, (tuple, list)) and len(examples) == 2:
        targets = torch.as_tensor(examples[1])
        if targets.dtype == torch.bool:  # classes, as cross-entropy wants them
            targets = targets.long()
        batch = Batch(_tensors(examples[0]), targets)
    else:
        raise TypeError(
            f"{name} has to be (inputs, targets), a dataset with a length or a Batch, got "
            f"{type(examples).__name__}"
        )
    lengths = {len(batch), *map(len, _leaves(batch.inputs))}
    if len(lengths) > 1 or not len(batch):
        raise ValueError(
            f"{name} has parts of {', '.join(map(str, sorted(lengths)))} examples; inputs and "
            "targets have to be equally many, and at least one"
        )
    return batch


def _tensors(inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {key: _tensors(value) for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(_tensors(value) for value in inputs)
    if isinstance(inputs, np.ndarray):
        inputs = torch.from_numpy(inputs)
        return inputs.float() if inputs.dtype == torch.float64 else inputs
    return inputs


def _leaves(inputs: Any) -> list[Any]:
    if isinstance(inputs, Mapping):
        inputs = tuple(inputs.values())
    if isinstance(inputs, tuple):
        return [leaf for part in inputs for leaf in _leaves(part)]
    return [inputs] if isinstance(inputs, Tensor) else []
