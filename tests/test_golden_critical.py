"""The released Adam_CM from its second step on, by the library.

The program's first step moves nothing and stores the raw gradient (`cm_first_step_zero`). Given the
state it has then, our AdamW_CM goes its way: everything after that is the same rule.
"""

from __future__ import annotations

import numpy as np
import torch

import golden_cases as golden
import gradmem
from test_golden import mismatches

CASES = [case for case in golden.CASES if case["cls"] == "Adam_CM"]
# What the library does otherwise for good; the reasons are those of `golden_cases`.
APART = {"none_grad", "cm_critical_test"}
ALIKE = [case for case in CASES if not APART & set(golden.why_not_library(case))]


def run_from_the_second_step(case):
    """Parameters after KEPT_STEPS and insertions, as golden_cases.run_library gives them."""
    _, options = golden.library_call(case)
    params = [torch.nn.Parameter(torch.tensor(p)) for p in golden.split(golden.DATA["p0"])]
    groups = [
        {"params": [params[i] for i in tensors], **own} for tensors, own in golden.groups_of(case)
    ]
    optimizer = gradmem.AdamW_CM(groups, **options)  # cm_decoupled_wd
    rows, births = [], []
    inserted = np.zeros((golden.STEPS, 3), dtype=bool)
    for t, grads in enumerate(golden.gradients(case)):
        before = {p: p.detach().clone() for p in params}
        for p, grad in zip(params, grads, strict=True):
            p.grad = torch.tensor(grad)
        optimizer.step()
        if t == 0:
            make_it_their_first_step(optimizer, before)
        rows.append(np.concatenate([p.detach().numpy().ravel() for p in params]))
        births.append([optimizer.state[p]["memory_birth"].tolist() for p in params])
        inserted[t] = [births[-1][i] != births[-2][i] for i in range(3)] if t else True
    return np.array(rows)[golden.KEPT_STEPS - 1], inserted


def make_it_their_first_step(optimizer, before):
    """Weight decay alone moves the parameters; no moments; the memory holds the raw gradient."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            state = optimizer.state[p]
            p.data = before[p] * (1 - group["lr"] * group["weight_decay"])
            for key in {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"} & set(state):
                state[key].zero_()
            state["memory_slots"][0] = p.grad
            state["memory_sum"].copy_(p.grad)


def test_from_the_second_step_on_the_library_reproduces_the_program():
    assert len(ALIKE) == 26
    assert not mismatches(ALIKE, run_from_the_second_step)


def test_where_it_overwrites_by_chance_the_program_goes_another_way():
    by_chance = [case for case in CASES if "cm_critical_test" in case["peculiarities"]]
    assert len(CASES) == len(ALIKE) + len(by_chance) + 1  # the one in which gradients are missing
    for case in by_chance:
        assert mismatches([case], run_from_the_second_step)


def test_without_that_first_step_the_library_goes_another_way(monkeypatch):
    monkeypatch.setitem(globals(), "make_it_their_first_step", lambda *_: None)
    for case in ALIKE:
        assert mismatches([case], run_from_the_second_step)
