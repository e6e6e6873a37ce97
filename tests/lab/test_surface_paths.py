"""The paths of gradmem surface, the search for learning rates, the optimizers that take part."""

import math

import numpy as np
import pytest
import torch

from gradmem.lab.surfaces import findings, plan, search
from gradmem.lab.surfaces.findings import Findings
from gradmem.lab.surfaces.paths import Path, follow
from gradmem.lab.surfaces.plan import RATES, Plan, enter
from gradmem.lab.surfaces.search import Result
from gradmem.lab.surfaces.table import SURFACES


def setting(name="sphere", optimizers=("sgd",), start=(1.0, 2.0), **options):
    memory = options.pop("memory", {})
    entrants = enter(optimizers, memory, options.get("seed", 0))
    return Plan(SURFACES[name], entrants, start, **{"steps": 20, **options})


def found(given):
    return Findings(given, search.carry_out(given, lambda _: None))


def drawn_path(points, losses, *, steps=None, name="sphere", rate=0.1):
    """A path made up, in a plan that begins where it does."""
    given = setting(name, start=tuple(points[0]), steps=steps or len(losses) - 1)
    return Path(given, given.entrants[0], rate, np.array(points, float), np.array(losses, float))


# Paths -------------------------------------------------------------------------------------------


def test_a_path_of_sgd_is_the_hand_loop():
    given = setting("beale", start=(0.75, 1.0), steps=30)
    path = follow(given, given.entrants[0], 0.01, seed=0)
    x = torch.tensor([0.75, 1.0], dtype=torch.float64, requires_grad=True)
    for t in range(31):
        loss = given.surface.function(x)
        np.testing.assert_allclose(path.points[t], x.detach(), rtol=1e-12)
        assert path.losses[t] == pytest.approx(loss.item(), rel=1e-12)
        (gradient,) = torch.autograd.grad(loss, x)
        x = (x - 0.01 * gradient).detach().requires_grad_()


def test_noise_is_the_same_for_all_and_of_the_size_asked_for():
    given = setting("de-jong-3", ("sgd", "sgdm"), noise=0.5, steps=2000)  # no gradient of its own
    first, second = (follow(given, given.entrants[0], 1.0, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first.points, second.points)
    moves = np.diff(first.points, axis=0)
    assert abs(moves.mean()) < 0.04
    assert moves.std() == pytest.approx(0.5, rel=0.05)
    other = follow(given, given.entrants[1], 1.0, seed=7)
    np.testing.assert_allclose(other.points[1], first.points[1])
    assert (follow(given, given.entrants[0], 1.0, seed=8).points[1] != first.points[1]).all()


def test_a_path_that_diverges_ends_there():
    given = setting("goldstein-price", start=(-1.0, 0.0), steps=50)
    path = follow(given, given.entrants[0], 1.0, seed=0)
    assert path.diverged
    assert path.steps < 50
    assert np.isfinite(path.losses[:-1]).all()
    assert math.isinf(path.final)
    assert math.isinf(path.gap)
    assert math.isinf(path.distance)
    assert path.best == path.losses[0]


def test_what_counts_of_a_path():
    path = drawn_path([(2, 0), (9, 0), (1, 0), (0.01, 0), (0, 2)], [4, -1, 1, 1e-4, 4])
    assert path.left == 1
    assert path.ends_inside
    assert path.best == 1e-4  # not -1, which is outside
    assert path.final == path.gap == 4
    assert path.distance == 2
    assert path.solved == 3
    assert drawn_path([(2, 0), (0.001, 9)], [4, 1e-9]).solved is None  # outside
    outside = drawn_path([(2, 0), (9, 0)], [4, 1])
    assert not outside.ends_inside
    assert math.isinf(outside.gap)
    assert outside.final == 1


def test_a_start_outside_the_box_does_not_count_as_leaving_it():
    path = drawn_path([(7, 0), (6, 0), (8, 0)], [49, 36, 64])
    assert path.inside.tolist() == [True, True, False]
    assert path.left == 2


def test_the_distance_is_to_the_nearest_minimiser():
    path = drawn_path([(0, 0), (-0.1, 0.7)], [0, -1], name="six-hump-camel")
    assert path.distance == pytest.approx(math.dist((-0.1, 0.7), (-0.0898420131, 0.712656403)))


# Search ------------------------------------------------------------------------------------------


def test_every_optimizer_gets_the_same_rates_and_the_lowest_end_is_chosen():
    result = found(setting("beale", ("sgd", "adam"), start=(0.75, 1.0)))
    for each in result.results:
        assert tuple(trial.rate for trial in each.trials) == RATES
        assert each.path.gap == min(trial.gap for trial in each.trials)
        assert each.edge is None


def test_of_ends_at_the_minimum_to_rounding_the_soonest_is_chosen():
    slow = drawn_path([(1, 0), (1, 0), (0, 0)], [1, 1, 0])
    soon = drawn_path([(1, 0), (0, 0), (1e-8, 0)], [1, 0, 1e-16])
    low = drawn_path([(1, 0), (0, 0), (1e-2, 0)], [1, 0, 1e-4])
    assert sorted([slow, low, soon], key=search.score) == [soon, slow, low]


def test_a_chosen_rate_at_an_end_of_the_grid_is_warned_of():
    flat = found(setting("griewank", start=(1.0, 1.0), steps=1))  # the longest step is best
    result = flat.results[0]
    edge = Result(result.trials[-1], result.trials)
    assert edge.edge == "upper"
    assert Result(result.trials[0], result.trials).edge == "lower"
    assert Result(result.trials[5], result.trials).edge is None
    line, *_ = findings.warnings(Findings(flat.plan, (edge,)))
    assert f"SGD: the chosen learning rate, {RATES[-1]:g}, is the upper end" in line
    still = found(setting("de-jong-3", steps=3))  # all rates are equally good
    assert still.results[0].edge is None


def test_with_noise_the_path_shown_is_not_the_one_its_rate_was_chosen_on():
    noisy = found(setting("beale", noise=0.1, start=(0.75, 1.0), seed=5))
    result = noisy.results[0]
    chosen = next(trial for trial in result.trials if trial.rate == result.path.rate)
    assert (chosen.points[-1] != result.path.points[-1]).all()
    given = setting("beale", noise=0.1, start=(0.75, 1.0), rates={"sgd": 0.01}, seed=5)
    shown = found(given).paths[0]
    np.testing.assert_array_equal(
        shown.points, follow(given, given.entrants[0], 0.01, seed=5).points
    )


# Optimizers --------------------------------------------------------------------------------------


def test_memory_options_reach_the_memory_and_nothing_else():
    sgd, adam_c = enter(("sgd", "adam_c"), {"capacity": 3, "policy": "fifo", "decay": None}, 4)
    assert sgd.memory == {}
    assert adam_c.memory["capacity"] == 3
    assert adam_c.memory["policy"] == "fifo"
    assert adam_c.options["seed"] == 4
    built = adam_c.build(plan.Place((0.0, 0.0)), 0.5)
    assert built.param_groups[0]["capacity"] == 3
    assert built.param_groups[0]["lr"] == 0.5
    assert built.param_groups[0]["weight_decay"] == 0


def test_sgdm_has_its_momentum_with_a_memory_too():
    for each in enter(("sgdm", "sgdm_c"), {}, 0):
        assert each.defaults["momentum"] == 0.9


def test_sum_lengthens_the_step_only_where_steps_grow_with_the_gradient():
    def factors(**memory):
        return [each.factor for each in enter(("sgd_c", "adam_c"), memory, 0)]

    assert factors() == [2, 1]
    assert factors(aggregate="sum", kappa=0.5) == [1.5, 1]
    assert factors(aggregate="mean") == [1, 1]
    assert factors(capacity=0) == [1, 1]


def test_an_equal_rate_of_a_longer_step_is_warned_of():
    def lines(**options):
        return findings.warnings(found(setting("beale", ("sgd", "sgd_c"), **options)))

    (line,) = lines(rates={"sgd": 1e-3, "sgd_c": 1e-3})
    assert "about 2 times as long as that of SGD" in line
    assert "0.002" in line
    assert lines(rates={"sgd": 2e-3, "sgd_c": 1e-3}) == []
    assert lines(rates={"sgd": 1e-3, "sgd_c": 1e-3}, memory={"aggregate": "mean"}) == []


@pytest.mark.parametrize("name", ["muon", "schedulefree"])
def test_an_optimizer_that_cannot_move_a_point_is_refused(name):
    with pytest.raises(ValueError, match=r"cannot be run on a surface|needs the package"):
        enter((name,), {}, 0)


def test_sum_at_a_rate_is_close_to_the_base_at_twice_the_rate():
    """What docs/surfaces.md says of Beale at the authors' setting."""
    given = setting("beale", ("sgd", "sgd_c"), start=(0.75, 1.0), steps=1000)
    sgd, sgd_c = given.entrants
    ends = [
        follow(given, each, rate, 0).final
        for each, rate in ((sgd, 1e-3), (sgd_c, 1e-3), (sgd, 2e-3))
    ]
    assert ends == pytest.approx([0.0888, 0.0205, 0.0207], abs=6e-5)
