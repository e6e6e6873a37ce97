"""The problems by name: a random quadratic, two bundled data sets, any LIBSVM file, some tasks."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.stats import ortho_group

from gradmem.lab.bound.problems import (
    Array,
    FreeIntercept,
    HasProblem,
    Logistic,
    Matrix,
    Problem,
    Quadratic,
)
from gradmem.lab.data import libsvm
from gradmem.lab.data.paths import data_folder
from gradmem.lab.tasks import TASKS, get_task
from gradmem.lab.tasks.loading import LIBSVM

DIMENSION, CONDITION, L2 = 30, 50.0, 0.1
LARGEST_QUADRATIC = 2000
LARGEST_DENSE = 50_000_000  # numbers; a standardised matrix has no zeros left


@dataclass(frozen=True)
class Source:
    """Which problem, and the options that belong to problems; None is the problem's own choice."""

    name: str
    condition: float | None = None
    dimension: int | None = None
    l2: float | None = None
    standardise: bool | None = None
    data: Path | None = None
    seed: int = 0


def make(source: Source) -> Problem:
    """The problem; ValueError or FileNotFoundError with a sentence where there is none."""
    if source.seed < 0:
        raise ValueError(f"seed must be at least 0, got {source.seed}")
    if source.name == "quadratic":
        _refuse(source, "l2", "standardise", "data")
        return quadratic(
            DIMENSION if source.dimension is None else source.dimension,
            CONDITION if source.condition is None else source.condition,
            source.seed,
        )
    _refuse(source, "condition", "dimension")
    l2 = L2 if source.l2 is None else source.l2
    if source.name in ("breast-cancer", "digits"):
        _refuse(source, "data")
        return _bundled(source, l2)
    if source.name in TASKS or source.name.startswith(LIBSVM):
        _refuse(source, "l2", "standardise")
        return _of_task(source)
    path = libsvm.find_file(source.name, data_folder(source.data))
    examples = libsvm.read(path)
    labels = libsvm.signs(examples.labels, str(path))
    name = path.name.removesuffix(".gz").removesuffix(".bz2")
    return logistic(name, name, examples.features, labels, l2, bool(source.standardise))


def quadratic(dimension: int, condition: float, seed: int) -> Quadratic:
    """Eigenvalues from 1/condition to 1, log-uniform between; axes, x* and start are random."""
    if not 1 <= dimension <= LARGEST_QUADRATIC:
        raise ValueError(f"dimension must be from 1 to {LARGEST_QUADRATIC}, got {dimension}")
    if not (np.isfinite(condition) and condition >= 1):
        raise ValueError(f"condition must be a finite number of at least 1, got {condition:g}")
    if dimension == 1 and condition > 1:
        raise ValueError("with --dimension 1 the only condition number is 1")
    rng = np.random.default_rng(seed)
    spectrum = condition ** -rng.uniform(0, 1, dimension)
    spectrum[0], spectrum[-1] = 1.0 / condition, 1.0
    axes = ortho_group.rvs(dimension, random_state=rng) if dimension > 1 else np.ones((1, 1))
    return Quadratic(
        name="quadratic",
        title=f"random quadratic in {dimension} dimensions, seed {seed}",
        matrix=np.sqrt(spectrum)[:, None] * axes,
        start=rng.standard_normal(dimension),
        l2=0.0,
        centre=rng.standard_normal(dimension),
    )


def logistic(
    name: str, title: str, features: Matrix, labels: Array, l2: float, standardise: bool
) -> Logistic:
    """L2-regularised logistic regression without intercept, from x = 0."""
    rows, columns = features.shape
    if standardise:
        features = _standardised(name, features)
    signs = sparse.diags_array(labels) if sparse.issparse(features) else labels[:, None]
    return Logistic(
        name=name,
        title=f"logistic regression on {title}, {rows:,} examples, {columns:,} features"
        f"{', standardised' if standardise else ''}, l2 {l2:g}",
        matrix=signs @ features if sparse.issparse(features) else signs * features,
        start=np.zeros(columns),
        l2=l2,
    )


def _bundled(source: Source, l2: float) -> Logistic:
    from sklearn.datasets import load_breast_cancer, load_digits

    if source.name == "digits":
        features, digit = load_digits(return_X_y=True)
        title, labels = "scikit-learn digits, even or odd", np.where(digit % 2 == 1, 1.0, -1.0)
    else:
        features, kind = load_breast_cancer(return_X_y=True)
        title, labels = "scikit-learn breast cancer", np.where(kind == 1, 1.0, -1.0)
    standardise = source.standardise is not False
    return logistic(source.name, title, features, labels, l2, standardise)


def _of_task(source: Source) -> Logistic:
    """What the runs of a task minimise, if its mu is known beforehand."""
    task = get_task(source.name, source.data)
    if isinstance(task, HasProblem):
        if sentence := task.missing():
            raise FileNotFoundError(sentence)
        problem = task.convex_problem()
        if problem is not None and not isinstance(problem, FreeIntercept):
            return problem
    raise ValueError(
        f"the loss of the task {source.name!r} has no mu that is known beforehand. It has to be a "
        "logistic regression of two classes whose penalty acts on the intercept too, as that of "
        "`gradmem bound libsvm:FILE`; `gradmem bound FILE` is one without an intercept"
    )


def _standardised(name: str, features: Matrix) -> Array:
    """Every feature with mean 0 and variance 1; a constant one becomes 0."""
    if features.shape[0] * features.shape[1] > LARGEST_DENSE:
        raise ValueError(
            f"{name} is too large to standardise: it would be {features.shape[0]:,} x "
            f"{features.shape[1]:,} numbers, none of them zero; leave --standardise out"
        )
    dense = np.asarray(features.toarray() if sparse.issparse(features) else features, dtype=float)
    dense = dense - dense.mean(axis=0)
    spread = dense.std(axis=0)
    dense[:, spread < 1e-12] = 0.0
    scaled: Array = dense / np.where(spread < 1e-12, 1.0, spread)
    return scaled


def _refuse(source: Source, *names: str) -> None:
    for name in names:
        if getattr(source, name) is not None:
            raise ValueError(f"--{name} means nothing for {source.name!r}")
