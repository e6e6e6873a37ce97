import copy
import sys

import pytest
import torch
from torch import nn

from gradmem.lab.combined import Combined, as_groups, muon
from gradmem.lab.errors import ConfigError
from gradmem.lab.optimizers import OPTIMIZERS, available, get_optimizers

MUON = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "adam_lr": 0.001}


class Words(nn.Module):
    """An embedding, a hidden matrix, a norm, an output layer."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.hidden = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.out = nn.Linear(4, 5)

    def forward(self, x):
        return self.out(self.norm(self.hidden(self.table(x))))


def step(model, optimizer, times=1):
    for _ in range(times):
        optimizer.zero_grad()
        model(torch.arange(5)).square().sum().backward()
        optimizer.step()


def words(seed=0):
    torch.manual_seed(seed)
    return Words()


def test_muon_takes_the_hidden_matrices_and_adamw_all_else():
    model = words()
    made = muon(model, model.parameters(), **MUON)
    (hidden, rest) = made.param_groups
    assert [id(p) for p in hidden["params"]] == [id(model.hidden.weight)]
    assert (hidden["lr"], hidden["momentum"], rest["lr"]) == (0.1, 0.9, 0.001)
    assert len(rest["params"]) == 7 - 1


def test_muons_parts_do_what_they_would_do_alone():
    ours, theirs = words(), words()
    step(ours, muon(ours, ours.parameters(), **MUON), times=3)
    matrices = [theirs.hidden.weight]
    others = [p for p in theirs.parameters() if p is not theirs.hidden.weight]
    first = torch.optim.Muon(matrices, lr=0.1, momentum=0.9, weight_decay=0.01)
    second = torch.optim.AdamW(others, lr=0.001, weight_decay=0.01)
    for _ in range(3):
        first.zero_grad(), second.zero_grad()
        theirs(torch.arange(5)).square().sum().backward()
        first.step(), second.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)


def test_muon_in_a_model_of_one_layer_is_adamw():
    model = nn.Linear(3, 2)
    made = muon(model, model.parameters(), **MUON)
    assert len(made.param_groups) == 1
    assert "betas" in made.param_groups[0]


def test_groups_keep_their_options_in_either_part():
    model = words()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    made = muon(model, groups, **MUON)
    assert [group["weight_decay"] for group in made.param_groups] == [0.01, 0.01, 0.0]
    assert sum(len(group["params"]) for group in made.param_groups) == 7


def test_combined_is_saved_loaded_scheduled_and_cleared_as_one():
    ours, theirs = words(), words()
    made = muon(ours, ours.parameters(), **MUON)
    step(ours, made, times=2)
    theirs.load_state_dict(ours.state_dict())
    other = muon(theirs, theirs.parameters(), **MUON)
    other.load_state_dict(copy.deepcopy(made.state_dict()))
    for model, optimizer in ((ours, made), (theirs, other)):
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        step(model, optimizer)
        schedule.step()
        step(model, optimizer)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)
    assert [group["lr"] for group in other.parts[0].param_groups] == [0.05]
    made.zero_grad()
    assert all(p.grad is None for p in ours.parameters())


def test_combined_evaluates_a_closure_once():
    model, calls = words(), []

    def closure():
        calls.append(1)
        loss = model(torch.arange(5)).square().sum()
        loss.backward()
        return loss

    parts = [torch.optim.SGD([p], lr=0.1) for p in model.parameters()]
    assert Combined(parts).step(closure) > 0
    assert calls == [1]


def test_parameters_or_groups_become_groups():
    p = nn.Parameter(torch.zeros(1))
    assert as_groups(iter([p])) == [{"params": [p]}]
    assert as_groups([{"params": iter([p]), "lr": 1}]) == [{"params": [p], "lr": 1}]


@pytest.mark.parametrize("name", [spec.name for spec in available()])
def test_every_optimizer_lowers_a_simple_loss(name):
    spec = OPTIMIZERS[name]
    model = words()
    options = {**spec.options_at([0.5] * len(spec.space)), "lr": 0.01}
    optimizer = spec.build(model, options)
    if hasattr(optimizer, "train"):
        optimizer.train()
    before = model(torch.arange(5)).square().sum().item()
    step(model, optimizer, times=10)
    assert model(torch.arange(5)).square().sum().item() < before


def test_the_baselines_are_those_that_users_would_pick():
    wanted = {"sgd", "sgdm", "rmsprop", "adam", "adamw", "nadam", "muon", "aggmo"}
    wanted |= {"ademamix", "lion", "schedulefree"}
    assert wanted <= OPTIMIZERS.keys()
    for name in wanted:
        rate = OPTIMIZERS[name].learning_rate
        assert rate.high / rate.low >= 1e3


def test_a_package_that_is_missing_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr("gradmem.lab.specs.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"lion needs .*pip install 'gradmem\[peers\]'"):
        get_optimizers(["adam", "lion"])
    assert "lion" not in {spec.name for spec in available()}
    assert "adam" in {spec.name for spec in available()}


def test_a_peers_package_is_imported_only_when_it_is_used(monkeypatch):
    for name in ("pytorch_optimizer", "schedulefree"):
        monkeypatch.setitem(sys.modules, name, None)
    OPTIMIZERS["adam"].build(words(), {"lr": 0.1})
    with pytest.raises(ImportError):
        OPTIMIZERS["lion"].build(words(), {"lr": 0.1})


@pytest.mark.parametrize("names", [[], ["adan"], ["adam", "adam"]])
def test_names_are_checked(names):
    with pytest.raises(ConfigError):
        get_optimizers(names)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown optimizer 'adan'; did you mean 'adam'"):
        get_optimizers(["adan"])
