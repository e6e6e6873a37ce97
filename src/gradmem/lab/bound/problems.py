"""Problems with everything the theorem speaks of: L, mu, f* and full gradients, in float64.

Both are f(x) = loss(A x) + l2/2 |x|^2 with a matrix A, dense or sparse. A x is called the image of
x; a move along a known direction then costs no product with A.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.linalg import solve
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg, eigsh
from scipy.special import expit

Array: TypeAlias = npt.NDArray[np.float64]
Matrix: TypeAlias = Any  # an Array or a scipy.sparse matrix

DENSE_EIGENVALUES = 1000  # up to this dimension all eigenvalues are computed, beyond only the ends
LARGEST_DIMENSION = 200_000
EPSILON = float(np.finfo(np.float64).eps)
RESOLVED = 1000  # what is this many times a problem's resolution can be compared with a gap


@dataclass(frozen=True)
class Minimum:
    """The minimiser x*, f(x*), and by how much f* may lie below that value."""

    point: Array
    value: float
    accuracy: float


@dataclass(frozen=True)
class Problem(ABC):
    """A function to minimise from ``start``."""

    name: str
    title: str
    matrix: Matrix
    start: Array
    l2: float

    @abstractmethod
    def _loss(self, images: Array) -> Array:
        """The loss of each image; images are rows."""

    @abstractmethod
    def _slope(self, image: Array) -> Array:
        """The gradient of the loss at an image."""

    @abstractmethod
    def _curvature(self, image: Array) -> Array:
        """The second derivatives of the loss at an image; it has no mixed ones."""

    @cached_property
    @abstractmethod
    def constants(self) -> tuple[float, float]:
        """Upper bound L of the curvature and lower bound mu."""

    @property
    def smoothness(self) -> float:
        """L, the largest curvature."""
        return self.constants[0]

    @property
    def strong_convexity(self) -> float:
        """mu, the smallest curvature."""
        return self.constants[1]

    def image(self, x: Array) -> Array:
        """A x."""
        image: Array = self.matrix @ x
        return image

    def value(self, x: Array) -> float:
        """f(x)."""
        return float(self.values(x[None], self.image(x)[None])[0])

    def values(self, points: Array, images: Array) -> Array:
        """f at each of several points, the rows, given their images."""
        shrunk = self._shrunk(points)
        penalties: Array = 0.5 * self.l2 * (shrunk * shrunk).sum(axis=1)
        return self._loss(images) + penalties

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """f(x) and its gradient."""
        image = self.image(x)
        gradient: Array = self.matrix.T @ self._slope(image) + self.l2 * self._shrunk(x)
        return float(self.values(x[None], image[None])[0]), gradient

    def curvature_times(self, x: Array, vector: Array) -> Array:
        """The Hessian at x times a vector."""
        bent = self._curvature(self.image(x)) * self.image(vector)
        product: Array = self.matrix.T @ bent + self.l2 * self._shrunk(vector)
        return product

    def _shrunk(self, points: Array) -> Array:
        """What of a point, or of each row of several, the penalty acts on: all of it."""
        return points

    def _curved_at_least(self, x: Array) -> float:  # noqa: ARG002
        """A lower bound of the curvature between x, close to the minimum, and the minimum."""
        return self.strong_convexity

    @cached_property
    def minimum(self) -> Minimum:
        """x* by a trust region with conjugate gradients, then Newton's method to the last digits.

        The least curvature on the way, mu or more, bounds what is left:
        f(x) - f* <= |grad f(x)|^2 / (2 mu).
        """
        found = minimize(
            self.value_and_gradient,
            self.start,
            jac=True,
            hessp=self.curvature_times,
            method="trust-ncg",
            options={"gtol": 1e-8},
        )
        point = self._polished(np.asarray(found.x))
        value, gradient = self.value_and_gradient(point)
        accuracy = float(gradient @ gradient) / (2 * self._curved_at_least(point))
        return Minimum(point, value, accuracy)

    def _polished(self, x: Array) -> Array:
        """Newton steps for as long as the gradient becomes smaller."""
        gradient = self.value_and_gradient(x)[1]
        for _ in range(20):
            following = x - self._newton_move(x, gradient)
            there = self.value_and_gradient(following)[1]
            if there @ there >= gradient @ gradient:
                break
            x, gradient = following, there
        return x

    def _newton_move(self, x: Array, gradient: Array) -> Array:
        """The inverse Hessian at x times the gradient: exact if small, else by products."""
        if x.size > DENSE_EIGENVALUES:
            product = partial(self.curvature_times, x)
            hessian = LinearOperator((x.size, x.size), matvec=product, dtype=float)
            found: Array = cg(hessian, gradient, rtol=1e-6, maxiter=10 * x.size)[0]
            return found
        move: Array = solve(self._hessian(x), gradient, assume_a="pos")
        return move

    def _hessian(self, x: Array) -> Array:
        """All second derivatives at x, where they are few."""
        bent = sparse.diags_array(self._curvature(self.image(x))) @ self.matrix
        penalty = np.diag(self._shrunk(np.full(x.size, self.l2)))
        hessian: Array = _dense(self.matrix.T @ bent) + penalty
        return hessian

    @cached_property
    def resolution(self) -> float:
        """Gaps are known up to this: the accuracy of f*, and rounding in f(x) - f*.

        Rounding enters through the value itself and through the image, entry by entry.
        """
        least = self.minimum
        slope = np.abs(self._slope(self.image(least.point)))
        through_image = float(slope @ (abs(self.matrix) @ np.abs(least.point)))
        size = abs(least.value) + through_image + EPSILON * self.value(self.start)
        return least.accuracy + 64 * EPSILON * size


@dataclass(frozen=True)
class Quadratic(Problem):
    """f(x) = |A x - b|^2 / 2 with b = A x*, so that f* = 0 exactly."""

    centre: Array

    def _loss(self, images: Array) -> Array:
        distance = images - self._target
        losses: Array = 0.5 * (distance * distance).sum(axis=1)
        return losses

    def _slope(self, image: Array) -> Array:
        return image - self._target

    def _curvature(self, image: Array) -> Array:
        return np.ones_like(image)

    @cached_property
    def _target(self) -> Array:
        return self.image(self.centre)

    @cached_property
    def constants(self) -> tuple[float, float]:
        """The largest and the smallest eigenvalue of A' A."""
        largest, smallest = extreme_eigenvalues(self.matrix)
        return largest, smallest

    @cached_property
    def minimum(self) -> Minimum:
        """Known by construction."""
        return Minimum(self.centre, 0.0, 0.0)


@dataclass(frozen=True)
class Logistic(Problem):
    """f(x) = mean log(1 + exp(-y_i a_i x)) + l2/2 |x|^2; row i of the matrix is y_i a_i."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.l2) and self.l2 > 0):
            raise ValueError(
                f"l2 must be a finite number above 0, got {self.l2:g}: it is the only curvature a "
                "logistic regression is sure to have, and mu = l2"
            )
        if self.matrix.shape[1] > LARGEST_DIMENSION:
            raise ValueError(
                f"{self.name} has {self.matrix.shape[1]:,} features; at most {LARGEST_DIMENSION:,}"
            )

    @property
    def examples(self) -> int:
        """The number of examples."""
        return int(self.matrix.shape[0])

    def batch(self, rows: npt.NDArray[np.int64]) -> "Logistic":
        """The same function on some of the examples."""
        return replace(self, matrix=self.matrix[rows])

    def _loss(self, images: Array) -> Array:
        # log(1 + exp(-z)) without overflow, and faster than np.logaddexp
        losses = np.maximum(-images, 0.0) + np.log1p(np.exp(-np.abs(images)))
        means: Array = losses.mean(axis=1)
        return means

    def _slope(self, image: Array) -> Array:
        slope: Array = -expit(-image) / image.size
        return slope

    def _curvature(self, image: Array) -> Array:
        curvature: Array = expit(image) * expit(-image) / image.size
        return curvature

    @cached_property
    def constants(self) -> tuple[float, float]:
        """lambda_max(A' A) / (4 n) + l2, since no logistic loss curves by more than 1/4; and l2."""
        largest, _ = extreme_eigenvalues(self.matrix, smallest=False)
        return largest / (4 * self.examples) + self.l2, self.l2


@dataclass(frozen=True)
class FreeIntercept(Logistic):
    """The same, but the penalty leaves out the last number of a point, the intercept.

    No mu can be told beforehand: far out the logistic losses are flat along the intercept. So
    ``strong_convexity`` is 0, of which the theorem makes nothing; see `simulate.Run.pl`.
    """

    def _shrunk(self, points: Array) -> Array:
        shrunk = points.copy()
        shrunk[..., -1] = 0.0
        return shrunk

    def _curved_at_least(self, x: Array) -> float:
        """Half of the least curvature at x: within a step of Newton's it changes by less."""
        if x.size <= DENSE_EIGENVALUES:
            least = np.linalg.eigvalsh(self._hessian(x))[0]
        else:
            product = partial(self.curvature_times, x)
            hessian = LinearOperator((x.size, x.size), matvec=product, dtype=float)
            least = eigsh(hessian, k=1, which="SA", return_eigenvectors=False)[0]
        return float(least) / 2

    @cached_property
    def constants(self) -> tuple[float, float]:
        """L as with the penalty on all; 0 for mu."""
        return super().constants[0], 0.0


@runtime_checkable
class HasProblem(Protocol):
    """A task of the lab whose runs minimise such a function."""

    def missing(self) -> str | None:
        """A sentence if the task's files are not there."""

    def convex_problem(self) -> Logistic | None:
        """What the runs minimise, with all training examples; None if there is none after all."""


def extreme_eigenvalues(matrix: Matrix, *, smallest: bool = True) -> tuple[float, float]:
    """The largest and the smallest eigenvalue of A' A; the smallest is 0 if it is not asked for."""
    dimension = matrix.shape[1]
    if dimension > DENSE_EIGENVALUES:
        largest = eigenvalue_by_iteration(matrix, "LA")
        return largest, eigenvalue_by_iteration(matrix, "SA") if smallest else 0.0
    values = np.linalg.eigvalsh(_dense(matrix.T @ matrix))
    return float(values[-1]), max(float(values[0]), 0.0) if smallest else 0.0


def _dense(matrix: Matrix) -> Array:
    full: Array = matrix.toarray() if sparse.issparse(matrix) else matrix
    return full


def eigenvalue_by_iteration(matrix: Matrix, end: str) -> float:
    """The largest ("LA") or smallest ("SA") eigenvalue of A' A from products with A alone.

    Lanczos' method: power iteration that keeps what it saw. An eigenvalue lies within the residual
    of what is found, and the value returned errs by it to the safe side: outwards.
    """
    dimension = matrix.shape[1]
    gram = LinearOperator(
        (dimension, dimension), matvec=lambda v: matrix.T @ (matrix @ v), dtype=float
    )
    start = np.random.default_rng(0).standard_normal(dimension)
    values, vectors = eigsh(gram, k=1, which=end, v0=start)
    value, vector = float(values[0]), vectors[:, 0]
    residual = float(np.linalg.norm(gram @ vector - value * vector))
    return value + residual if end == "LA" else max(value - residual, 0.0)
