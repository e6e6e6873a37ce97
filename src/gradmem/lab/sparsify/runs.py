"""One run: a setting in; what came out of it in a file, beside it the weights if needed."""

import hashlib
import io
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gradmem.lab.bench.turns import threads
from gradmem.lab.errors import StoreError
from gradmem.lab.files import drafted, write_atomically
from gradmem.lab.optimizers import Spec
from gradmem.lab.sparsify.methods import METHODS
from gradmem.lab.sparsify.plan import FIRST_SEED, Setting
from gradmem.lab.sparsify.problem import (
    Penalised,
    Problem,
    hidden_channels,
    small_channels,
    without_small_channels,
)
from gradmem.lab.tasks import evaluate, seeded
from gradmem.lab.training import Diverged, Training
from gradmem.proximal import sparsity_report

Weights = dict[str, Tensor]


class Stopped(Exception):  # noqa: N818
    """The run was told to stop before its end; nothing of it is kept."""


@dataclass(frozen=True)
class Result:
    """What a run gave, at its end.

    Attributes:
        setting: the run.
        status: whether it came to its end.
        validation_loss: None if it diverged.
        validation_score, test_score: of the model as it is; the test's is None where a learning
            rate is chosen.
        zero_validation_score, zero_test_score: with small channels set to zero.
        channels: hidden ones, by layer.
        zero: those of which every weight is exactly zero, by layer.
        small: those up to the threshold, by layer.
    """

    setting: Setting
    status: Literal["ok", "diverged"]
    validation_loss: float | None
    validation_score: float
    test_score: float | None
    zero_validation_score: float
    zero_test_score: float | None
    channels: tuple[int, ...]
    zero: tuple[int, ...]
    small: tuple[int, ...]

    @property
    def zero_share(self) -> float:
        """Share of channels that are exactly zero."""
        return sum(self.zero) / sum(self.channels)

    @property
    def small_share(self) -> float:
        """Share of channels up to the threshold."""
        return sum(self.small) / sum(self.channels)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Result":
        """The record that `to_json` wrote."""
        counts = {name: tuple(plain[name]) for name in ("channels", "zero", "small")}
        return cls(**{**plain, **counts, "setting": Setting(**plain["setting"])})


def train(
    problem: Problem, setting: Setting, stop: Callable[[], bool] = lambda: False
) -> tuple[Result, Weights]:
    """Train once, with one thread. Deterministic given the setting.

    Raises:
        Stopped: ``stop``, asked before every epoch, said so.
    """
    method = METHODS[setting.method]
    task = problem
    if method.kind == "subgradient":
        task = Penalised(problem, setting.regularizer, setting.penalty)

    def create(model: nn.Module, _parameters: object, *, lr: float) -> torch.optim.Optimizer:
        cut = hidden_channels(model)
        return method.optimizer(model, cut, lr, setting.regularizer, setting.penalty)

    with threads(1), seeded(setting.seed, "training"):
        spec = Spec(method.name, method.label, None, (), create)
        options = {"lr": setting.lr}
        training = Training(task, spec, options, seed=setting.seed, batch_size=setting.batch_size)
        try:
            for _ in range(setting.epochs):
                if stop():
                    raise Stopped
                training.epoch(setting.epochs)
        except Diverged:
            return _diverged(problem, setting, training.model), {}
        weights = {name: each.clone() for name, each in training.model.state_dict().items()}
        return _measured(problem, setting, training.model), weights


def _measured(problem: Problem, setting: Setting, model: nn.Module) -> Result:
    """Scores of the last weights; no epoch is chosen. The test split is left alone in tuning."""
    cut = hidden_channels(model)
    report = sparsity_report(model, cut)
    layers = [layer for layer in report.layers if layer.groups]
    zeroed = without_small_channels(model, setting.threshold)
    splits = problem.data()
    loss, score = evaluate(problem, model, splits.validation)
    tested = setting.purpose == "evaluate"
    return Result(
        setting=setting,
        status="ok",
        validation_loss=loss,
        validation_score=score,
        test_score=evaluate(problem, model, splits.test)[1] if tested else None,
        zero_validation_score=evaluate(problem, zeroed, splits.validation)[1],
        zero_test_score=evaluate(problem, zeroed, splits.test)[1] if tested else None,
        channels=tuple(layer.groups for layer in layers),
        zero=tuple(layer.zero_groups for layer in layers),
        small=tuple(int(small.sum()) for small in small_channels(cut, setting.threshold)),
    )


def _diverged(problem: Problem, setting: Setting, model: nn.Module) -> Result:
    """It counts as it is: the worst score, and no channel saved."""
    counts = tuple(
        groups.count(parameter.shape) for parameter, groups in hidden_channels(model).items()
    )
    none = (0,) * len(counts)
    worst = problem.metric.worst
    tested = worst if setting.purpose == "evaluate" else None
    return Result(
        *(setting, "diverged", None, worst, tested, worst, tested, counts, none, none),
    )


# Files -------------------------------------------------------------------------------------------


def name_of(setting: Setting) -> str:
    """What this run's files are called, and no other's."""
    canonical = json.dumps(asdict(setting), sort_keys=True)
    key = hashlib.sha256(canonical.encode()).hexdigest()[:16]
    return f"{setting.method}-{setting.purpose}-{setting.penalty:g}-seed{setting.seed}-{key}"


def keeps_weights(setting: Setting) -> bool:
    """Whether its model may be the one whose speed is measured."""
    return setting.purpose == "evaluate" and setting.seed == FIRST_SEED


class Store:
    """Finished runs in ``folder/runs``, found again by their setting."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "runs"

    def load(self, setting: Setting) -> Result | None:
        """The result, or None if it is yet to run, or its files cannot be understood.

        Raises:
            StoreError: a file is there but the system does not let it be read.
        """
        path = self._path(setting, "json")
        try:
            found = Result.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror or error}") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            return None  # written by something else: the run is made again
        whole = found.status != "ok" or not keeps_weights(setting)
        whole = whole or self._path(setting, "pt").is_file()
        return found if whole and found.setting == setting else None

    def save(self, result: Result, weights: Weights) -> None:
        """Write a run's files, each in one move, the result last.

        Raises:
            StoreError: it cannot be written.
        """
        if weights and keeps_weights(result.setting):
            buffer = io.BytesIO()
            torch.save(weights, buffer)
            with drafted(self._path(result.setting, "pt")) as file:
                file.write(buffer.getvalue())
        text = json.dumps(_finite(result).to_json(), allow_nan=False, indent=1)
        write_atomically(self._path(result.setting, "json"), text)

    def weights(self, setting: Setting) -> Weights:
        """The weights at a run's end.

        Raises:
            StoreError: they cannot be read.
        """
        path = self._path(setting, "pt")
        try:
            weights: Weights = torch.load(path)
        except (OSError, RuntimeError, pickle.UnpicklingError) as error:
            raise StoreError(f"{path} cannot be read: {error}; delete it, and go on") from None
        return weights

    def _path(self, setting: Setting, suffix: str) -> Path:
        return self.folder / f"{name_of(setting)}.{suffix}"


def _finite(result: Result) -> Result:
    loss = result.validation_loss
    return result if loss is None or math.isfinite(loss) else replace(result, validation_loss=None)
