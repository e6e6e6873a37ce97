"""On a strongly convex finite sum, at a constant step: linear convergence, where SGD stalls."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import softplus

from gradmem import SAG, SAGA, SVRG

TERMS, FEATURES, PENALTY = 60, 5, 0.1


class Logistic:
    """Logistic regression with labels that disagree, so that no point is best for every term."""

    def __init__(self, batch=1):
        generator = torch.Generator().manual_seed(0)
        shape = TERMS, batch, FEATURES
        self.x = torch.randn(shape, generator=generator, dtype=torch.float64)
        slope = torch.randn(FEATURES, generator=generator, dtype=torch.float64)
        noise = torch.randn(TERMS, batch, generator=generator, dtype=torch.float64)
        self.y = torch.sign(self.x @ slope + 2 * noise)
        self.smoothness = float(self.x.square().sum(-1).max()) / 4 + PENALTY
        self.best = self.minimise()

    def loss(self, weight, index=slice(None)):
        """Without the penalty, which is the optimizer's weight decay."""
        return softplus(-self.y[index] * (self.x[index] @ weight)).mean()

    def objective(self, weight):
        return self.loss(weight) + PENALTY / 2 * weight.square().sum()

    def minimise(self):
        """By Newton's method, to the last digits."""
        w = torch.zeros(FEATURES, dtype=torch.float64)
        signed = (self.y[..., None] * self.x).flatten(0, 1)
        for _ in range(20):
            wrong = torch.sigmoid(-signed @ w)
            grad = PENALTY * w - (wrong[:, None] * signed).mean(dim=0)
            curvature = (signed * (wrong * (1 - wrong))[:, None]).T @ signed / len(signed)
            w = w - torch.linalg.solve(curvature + PENALTY * torch.eye(FEATURES), grad)
        assert grad.norm() < 1e-14
        return float(self.objective(w))

    def gap(self, weight):
        return float(self.objective(weight.detach())) - self.best


def gaps(problem, cls, steps=1200, every=200, **own):
    """Suboptimality every so many steps of 1 / (3 L), terms being drawn uniformly."""
    weight = torch.nn.Parameter(torch.zeros(FEATURES, dtype=torch.float64))
    optimizer = cls([weight], lr=1 / (3 * problem.smoothness), weight_decay=PENALTY, **own)
    generator, found = torch.Generator().manual_seed(1), []
    for t in range(steps):
        if t % every == 0:
            found.append(problem.gap(weight))
        index = int(torch.randint(TERMS, (), generator=generator))

        def one(index=index):
            loss = problem.loss(weight, index)
            loss.backward()
            return loss

        def full():
            loss = problem.loss(weight)
            loss.backward()
            return loss

        optimizer.zero_grad()
        if isinstance(optimizer, SVRG):
            optimizer.step(one, full_closure=full)
        elif isinstance(optimizer, torch.optim.SGD):
            optimizer.step(one)
        else:
            optimizer.step(one, index=index)
    return [*found, problem.gap(weight)]


CASES = {
    "SAG": (SAG, {"terms": TERMS}),
    "SAG-terms": (SAG, {"terms": TERMS, "divide_by": "terms"}),
    "SAGA": (SAGA, {"terms": TERMS}),
    "SVRG": (SVRG, {"period": 2 * TERMS}),
}


@pytest.fixture(scope="module", params=[1, 4], ids=["examples", "batches"])
def problem(request):
    return Logistic(request.param)


@pytest.mark.parametrize(("cls", "own"), CASES.values(), ids=CASES)
def test_converges_linearly_at_a_constant_step(problem, cls, own):
    found = gaps(problem, cls, **own)
    assert found[0] > 1e-2
    assert found[-1] < 1e-9
    for before, after in pairwise(found):  # linearly: by a factor again and again
        assert after < max(before / 5, 1e-14)


def test_sgd_stalls_at_the_same_step(problem):
    found = gaps(problem, torch.optim.SGD)
    assert min(found) > 5e-4


def test_batches_drawn_anew_are_no_terms():
    """Why `terms` says fixed batches: rows of batches that changed meanwhile leave a variance."""
    problem = Logistic(4)
    weight = torch.nn.Parameter(torch.zeros(FEATURES, dtype=torch.float64))
    optimizer = SAGA([weight], lr=1 / (3 * problem.smoothness), terms=TERMS, weight_decay=PENALTY)
    generator = torch.Generator().manual_seed(1)
    x, y = problem.x.reshape(-1, FEATURES), problem.y.reshape(-1)
    for t in range(1200):
        if t % TERMS == 0:
            order = torch.randperm(len(x), generator=generator).reshape(TERMS, 4)
        some = order[t % TERMS]
        optimizer.zero_grad()
        softplus(-y[some] * (x[some] @ weight)).mean().backward()
        optimizer.step(index=t % TERMS)
    assert problem.gap(weight) > 1e-4
