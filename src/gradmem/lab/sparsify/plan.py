"""What is run: methods, penalties, learning rates, seeds, checked before anything begins."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gradmem.lab.errors import ConfigError
from gradmem.lab.run import Purpose, versions
from gradmem.lab.sparsify.methods import KINDS, Kind, Method
from gradmem.lab.sparsify.problem import Problem, hidden_channels

FORMAT = 1  # of run files: raised when a run of the same setting would give something else
FIRST_SEED = 100  # of evaluation; learning rates are chosen on seeds from 0
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
COUNT = 6  # penalties of a range
# From about the first channel to be lost to nearly the last, for the networks here. In the plain
# metric a penalty is measured against normalised steps, in the others against gradients.
RANGES: Mapping[Kind, tuple[float, float, int]] = {
    "diagonal": (1e-5, 1.5e-3, COUNT),
    "plain": (2e-2, 5e-1, COUNT),
    "subgradient": (3e-5, 2e-3, COUNT),
}


@dataclass(frozen=True)
class Setting:
    """All that decides a run's result; two equal settings are the same run."""

    task: str
    task_version: int
    examples: int | None
    purpose: Purpose
    method: str
    regularizer: str
    penalty: float
    lr: float
    seed: int
    epochs: int
    batch_size: int
    threshold: float
    versions: dict[str, str]
    format: int = FORMAT


@dataclass(frozen=True)
class Plan:
    """Everything that is run.

    Attributes:
        problem: the task with its network.
        methods: each base without penalty before its others.
        regularizer: the penalty's name.
        penalties: by kind, ascending.
        rates: learning rates to choose from, for each base without penalty; one: taken as it is.
        seeds: runs of each point.
        tuning_seeds: runs of each learning rate.
        epochs, batch_size: of every run.
        threshold: learning rates that the root mean square of a channel's weights may be at most
            for a subgradient method to set it to zero.
        within: points of accuracy that may be lost, for the sentences.
    """

    problem: Problem
    methods: tuple[Method, ...]
    regularizer: str
    penalties: Mapping[Kind, tuple[float, ...]]
    rates: tuple[float, ...]
    seeds: int
    tuning_seeds: int
    epochs: int
    batch_size: int
    threshold: float
    within: float

    def __post_init__(self) -> None:
        for name in ("seeds", "tuning_seeds", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                shown = name.replace("_", " ")
                raise ConfigError(f"{shown} must be at least 1, got {getattr(self, name)}")
        for name in ("threshold", "within"):
            value = getattr(self, name)
            if not 0.0 <= value < math.inf:
                raise ConfigError(f"{name} must be a finite number from 0, got {value:g}")

    @property
    def bases(self) -> tuple[str, ...]:
        """The bases, once each."""
        return tuple(dict.fromkeys(method.base for method in self.methods))

    @property
    def seed_range(self) -> range:
        """The seeds of the runs that are evaluated."""
        return range(FIRST_SEED, FIRST_SEED + self.seeds)

    def points(self, method: Method) -> tuple[float, ...]:
        """A method's penalties."""
        return (0.0,) if method.kind == "none" else self.penalties[method.kind]

    def tuning(self) -> list[Setting]:
        """The runs that choose learning rates: none if there is nothing to choose."""
        if len(self.rates) == 1:
            return []
        return [
            self.setting(Method(base, "none"), 0.0, rate, seed, "tune")
            for rate in self.rates
            for base in self.bases
            for seed in range(self.tuning_seeds)
        ]

    def evaluation(self, rates: Mapping[str, float]) -> list[Setting]:
        """The runs at each base's learning rate."""
        return [
            self.setting(method, penalty, rates[method.base], seed, "evaluate")
            for seed in self.seed_range
            for method in self.methods
            for penalty in self.points(method)
        ]

    @property
    def count(self) -> int:
        """How many runs there are."""
        rates = dict.fromkeys(self.bases, self.rates[0])
        return len(self.tuning()) + len(self.evaluation(rates))

    def setting(
        self, method: Method, penalty: float, lr: float, seed: int, purpose: Purpose
    ) -> Setting:
        """One run."""
        return Setting(
            task=self.problem.name,
            task_version=self.problem.version,
            examples=self.problem.examples,
            purpose=purpose,
            method=method.name,
            regularizer=self.regularizer,
            penalty=penalty,
            lr=lr,
            seed=seed,
            epochs=self.epochs,
            batch_size=self.batch_size,
            threshold=self.threshold * lr if method.kind == "subgradient" else 0.0,
            versions={**versions(), **self.problem.versions()},
        )

    def check(self) -> None:
        """Make every optimizer once at its largest rate, so that what it refuses is said first.

        Raises:
            ConfigError: one refuses its setting.
        """
        for method in self.methods:
            for penalty in self.points(method):
                model = self.problem.model(0)
                cut = hidden_channels(model)
                try:
                    method.optimizer(model, cut, max(self.rates), self.regularizer, penalty)
                except (TypeError, ValueError) as error:
                    raise ConfigError(f"{method.name} cannot be made: {error}") from None


def parse_penalties(given: Sequence[str]) -> dict[Kind, tuple[float, ...]]:
    """Ranges as typed: ``1e-5:1e-3`` for all, ``plain=0.01:1:4`` for a kind; later ones win.

    >>> parse_penalties(["1e-4:1e-2:3", "plain=0.5:0.5:1"])["diagonal"]
    (0.0001, 0.001, 0.01)

    Raises:
        ConfigError: one cannot be understood.
    """
    ranges = dict(RANGES)
    for text in given:
        kind, equals, span = text.rpartition("=")
        if equals and kind not in RANGES:
            known = ", ".join(each for each in KINDS if each in RANGES)
            raise ConfigError(f"--penalties {text}: {kind!r} is none of {known}")
        for each in RANGES:
            if each == kind or not equals:
                ranges[each] = _range(span, text)
    return {kind: tuple(_logarithmic(*span)) for kind, span in ranges.items()}


def _range(span: str, text: str) -> tuple[float, float, int]:
    parts = span.split(":")
    try:
        low, high = map(float, parts[:2])
        count = int(parts[2]) if len(parts) > 2 else COUNT
    except ValueError:
        low = high = math.nan
        count = 0
    if len(parts) > 3 or not 0.0 < low <= high < math.inf or count < 1:
        raise ConfigError(
            f"--penalties must be LOW:HIGH or LOW:HIGH:COUNT, of numbers above 0, got {text!r}; "
            "1e-5:1e-3:6, say, or plain=0.01:1"
        )
    if (count == 1) != (low == high):
        raise ConfigError(
            f"--penalties {text}: one penalty needs LOW equal to HIGH, and several unequal ones"
        )
    return low, high, count


def _logarithmic(low: float, high: float, count: int) -> Iterator[float]:
    """Evenly on the logarithm, to three digits: what is printed is what was used."""
    for i in range(count):
        yield float(f"{low * (high / low) ** (i / max(1, count - 1)):.3g}")


def parse_rates(text: str | None) -> tuple[float, ...]:
    """Learning rates with commas; None for the grid.

    Raises:
        ConfigError: one is no finite number above 0.
    """
    if text is None:
        return RATES
    try:
        rates = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        rates = ()
    if not rates or not all(0.0 < rate < math.inf for rate in rates):
        raise ConfigError(f"--lr must be finite numbers above 0 with commas, got {text!r}")
    return rates
