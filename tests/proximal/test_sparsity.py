"""The report counts what is exactly zero."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gradmem.errors import OptionError, OptionTypeError
from gradmem.proximal.groups import Groups
from gradmem.proximal.sparsity import sparsity_report
from shrinking import sharded, zero


def model():
    torch.manual_seed(0)
    built = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 5))
    with torch.no_grad():
        built[0].weight[1:3] = 0
        built[0].weight[0, 0] = 0
        built[0].weight[3, 0, 0, 0] = -0.0
        built[3].weight[:, 1] = 0
        built[3].bias.zero_()
    return built


def test_it_counts_groups_and_elements():
    report = sparsity_report(model())
    rows = [
        (x.name, x.shape, x.groups, x.zero_groups, x.elements, x.zero_elements)
        for x in report.layers
    ]
    assert rows == [
        ("0.weight", (4, 2, 3, 3), 4, 2, 72, 46),
        ("0.bias", (4,), 0, 0, 4, 0),
        ("3.weight", (5, 4), 5, 0, 20, 5),
        ("3.bias", (5,), 0, 0, 5, 5),
    ]


def test_it_sums_up():
    report = sparsity_report(model())
    grouped, total = report.grouped, report.total
    assert (grouped.groups, grouped.zero_groups) == (total.groups, total.zero_groups) == (9, 2)
    assert (grouped.elements, grouped.zero_elements) == (92, 51)
    assert (total.elements, total.zero_elements) == (101, 56)


def test_shares():
    first, bias, *_ = sparsity_report(model()).layers
    assert (first.group_share, first.element_share) == (0.5, 46 / 72)
    assert math.isnan(bias.group_share)
    assert bias.element_share == 0
    assert math.isnan(sparsity_report(nn.ReLU()).total.element_share)


def test_it_counts_by_the_groups_it_is_given():
    built = model()
    first, _, last, _ = sparsity_report(built, {built[3].weight: Groups(1)}).layers
    assert (first.groups, last.groups, last.zero_groups) == (0, 4, 1)


def test_its_table():
    assert str(sparsity_report(model())).splitlines() == [
        "parameter    shape    zero groups  share  zero elements  share",
        "0.weight     4x2x3x3  2/4          50%    46/72          64%",
        "3.weight     5x4      0/5          0%     5/20           25%",
        "with groups           2/9          22%    51/92          55%",
        "all                   2/9          22%    56/101         55%",
    ]


@pytest.mark.parametrize(("zeros", "share"), [(0, "0%"), (1, "1%"), (999, "99%"), (1000, "100%")])
def test_none_and_all_are_said_only_of_none_and_all(zeros, share):
    layer = nn.Linear(1, 1000, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1)[:zeros] = 0
    assert str(sparsity_report(layer)).splitlines()[1].split()[-1] == share


def test_a_model_without_groups():
    report = sparsity_report(nn.BatchNorm1d(3))
    assert str(report).splitlines()[1].split() == ["with", "groups", "0/0", "-", "0/0", "-"]
    assert [layer.name for layer in report.layers] == ["weight", "bias"]


def test_tied_parameters_count_once():
    tied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    tied[1].weight = tied[0].weight
    assert sparsity_report(tied).total.elements == 9


@pytest.mark.parametrize("number", [math.nan, 1e-40, -math.inf])
def test_only_zero_is_zero(number):
    layer = nn.Linear(2, 2, bias=False)
    nn.init.constant_(layer.weight, number)
    assert sparsity_report(layer).total.zero_elements == 0


def test_sharded_parameters_are_counted_whole():
    layer = nn.Linear(4, 5)
    zero(layer.weight, [3])
    zero(layer.weight, 0, 1)
    plain = sparsity_report(layer)
    with sharded(layer):
        assert sparsity_report(layer) == plain


def test_bad_input_is_refused():
    layer = nn.Linear(3, 2)
    with pytest.raises(OptionTypeError, match=r"model must be a torch\.nn\.Module, got int"):
        sparsity_report(3)
    with pytest.raises(OptionTypeError, match=r"model must be a torch\.nn\.Module, got int"):
        sparsity_report(3, {})
    with pytest.raises(OptionTypeError, match="groups must map parameters to Groups, got list"):
        sparsity_report(layer, [layer.weight])
    with pytest.raises(OptionTypeError, match="weight: groups must be Groups, got 0"):
        sparsity_report(layer, {layer.weight: 0})
    with pytest.raises(OptionError, match=r"groups has \(2, 3\), which is no parameter of the mod"):
        sparsity_report(layer, {nn.Linear(3, 2).weight: Groups(0)})
    with pytest.raises(OptionError, match="groups has 'weight', which is no parameter"):
        sparsity_report(layer, {"weight": Groups(0)})
    with pytest.raises(OptionError, match="bias: axis must be one of the 1 dimensions"):
        sparsity_report(layer, {layer.bias: Groups(1)})
    with pytest.raises(OptionError, match="weight is on the device 'meta' and has no numbers"):
        sparsity_report(nn.Linear(3, 2, device="meta"))
