"""Reads the golden cases and says, for each, which twin variant and which library call it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

import gradmem
from golden_variants import CriticalMomenta, Released, Saga
from reference import Twin

FOLDER = Path(__file__).parent / "golden"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())
DATA = dict(np.load(FOLDER / "trajectories.npz"))
CASES = MANIFEST["cases"]
NUMBER = {case["id"]: number for number, case in enumerate(CASES)}
SHAPES, OFFSETS, STEPS = MANIFEST["shapes"], MANIFEST["offsets"], MANIFEST["steps"]
KEPT_STEPS = DATA["kept_steps"]

BASE_NAMES = (
    *("lr", "betas", "eps", "amsgrad", "weight_decay"),
    *("momentum", "dampening", "nesterov", "alpha", "centered"),
)
RULES = {"SGD": "sgd", "RMSprop": "rmsprop", "Adam": "adam", "AdamW": "adamw", "AggMo": "aggmo"}
HEAP_SOURCES = ("cgoptimizer", "research", "research_exp")
LIBRARY_NAMES = {
    "sgd": "SGD_C",
    "rmsprop": "RMSprop_C",
    "adam": "Adam_C",
    "adamw": "AdamW_C",
    "aggmo": "AggMo_C",
}


def expected(case):
    """The parameters after each of KEPT_STEPS, and what was inserted at every step."""
    number = NUMBER[case["id"]]
    inserted = np.unpackbits(DATA["inserted"][number])[: STEPS * 3].reshape(STEPS, 3)
    return DATA["parameters"][DATA["which"][number]], inserted.astype(bool)


def split(row):
    parts = np.split(row, OFFSETS[1:-1])
    return [part.reshape(shape) for part, shape in zip(parts, SHAPES, strict=True)]


def gradients(case):
    """Per step the three gradients, None where absent."""
    rows, present = DATA[f"grads_{case['gradients']}"], DATA[f"present_{case['gradients']}"]
    return [
        [grad if there else None for grad, there in zip(split(row), here, strict=True)]
        for row, here in zip(rows, present, strict=True)
    ]


def rule_of(case):
    return RULES[case["cls"].split("_")[0]]


def aggregate_of(case):
    """The aggregate that is in effect; the efficient and the momenta programs know only sum."""
    if "eff_running_sum" in case["peculiarities"]:
        return "sum"
    hyper = case["hyperparameters"]
    name = hyper.get("aggr", hyper.get("sum", "sum"))
    if case["source"] == "research_exp" and name.endswith("mean"):
        return "mean"  # exp_aggr_substring
    return name


def kappa_of(case):
    """The kappa that is in effect: most programs only ask whether it is zero."""
    ignored = {"kappa_ignored", "eff_aggr_ignored", "aggmo_c_kappa"} & set(case["peculiarities"])
    kappa = case["hyperparameters"].get("kappa", 0.0)
    return 1.0 if ignored and kappa != 0 else kappa


def policy_of(case):
    if case["cls"].endswith("_FIFO"):
        return "fifo"
    return "bottom_norm" if case["cls"].endswith("_bottom") else "top_norm"


def options_of(case):
    """Options with the same meaning in the program, the twin and the library."""
    hyper = case["hyperparameters"]
    options = {name: hyper[name] for name in BASE_NAMES if name in hyper}
    if kappa_of(case) == 0 and "kappa_zero_drops_momentum" in case["peculiarities"]:
        options["momentum"] = 0.0
    return options | {
        "capacity": hyper.get("topC", 0),
        "decay": hyper.get("decay", 1.0),
        "aggregate": aggregate_of(case),
        "kappa": kappa_of(case),
        "policy": policy_of(case),
    }


def groups_of(case):
    """Indices of tensors and the options that differ, one entry a group."""
    names = {"topC": "capacity", "aggr": "aggregate"}
    groups = []
    for group in case["groups"] or [{"tensors": [0, 1, 2]}]:
        own = {names.get(name, name): value for name, value in group.items()}
        groups.append((own.pop("tensors"), own))
    return groups


def order_of(case):
    """The tensors in the order their groups list them."""
    return [i for tensors, _ in groups_of(case) for i in tensors]


# -------------------------------------------------------------------- as a twin variant


def flags_of(case):
    hyper, peculiarities = case["hyperparameters"], case["peculiarities"]
    weight_decay = hyper.get("weight_decay", 0.0)
    stored = "wd_before_buffer" in peculiarities or case["cls"] == "AggMo_C"
    flags = {
        "synced": hyper.get("synced", "synced_sum_of_norms" in peculiarities),
        "heap": case["source"] in HEAP_SOURCES,
        "stored_weight_decay": weight_decay if stored else 0.0,
        "mutates": "kappa_mutates_buffer" in peculiarities,
        "insert_first": case["cls"].endswith(("_double", "_Only")),
        "only_buffer": case["cls"].endswith("_Only"),
        "without_current": "cm_rmsprop_no_current" in peculiarities,
        "seed": case["numpy_seed"],
    }
    if case["source"] == "cmoptimizer":
        flags["overwrite"] = hyper.get("critical_test", 0.0)
    else:
        flags["critical_test"] = hyper.get("critical_test", True)
    if "wd_before_buffer" in peculiarities:
        flags["weight_decay"] = 0.0
    return flags


def run_variant(case):
    """Parameters after KEPT_STEPS and insertions, by the program's variant of the twin."""
    start = split(DATA["p0"])
    if case["cls"] == "SAGA":
        hyper = case["hyperparameters"]
        saga = Saga(start, hyper["lr"], hyper["n_samples"], case["default_dtype"])
        rows = []
        for grads, index in zip(gradients(case), DATA[case["step_index_array"]], strict=True):
            saga.step(grads, index)
            rows.append(np.concatenate([p.ravel() for p in saga.params]))
        return np.array(rows)[KEPT_STEPS - 1], np.zeros((STEPS, 3), dtype=bool)
    order = order_of(case)
    groups = [{"params": [start[i] for i in tensors], **own} for tensors, own in groups_of(case)]
    kind = CriticalMomenta if case["cls"] == "Adam_CM" else Released
    options = options_of(case) | flags_of(case)
    return followed(kind(rule_of(case), groups, **options), case, order)


def followed(twin, case, order):
    """Run a twin whose tensors are in the given order; parameters and insertions in ours."""
    rows, places = [], [order.index(i) for i in range(3)]
    for grads in gradients(case):
        twin.step([grads[i] for i in order])
        rows.append(np.concatenate([twin.params[place].ravel() for place in places]))
    accepted = [twin.ledger_of(place).accepted for place in places]
    return np.array(rows)[KEPT_STEPS - 1], np.array(accepted).T


# -------------------------------------------------------------------- as a library call


def why_not_library(case):
    """Names of what keeps the library from reproducing a case; empty where it has to."""
    peculiarities, hyper = set(case["peculiarities"]), case["hyperparameters"]
    synced = hyper.get("synced", True)
    reasons = []
    if case["cls"] in ("Adam_CM", "SAGA"):
        reasons.append("cm_first_step_zero" if case["cls"] == "Adam_CM" else "saga_sign")
    if case["cls"] == "AggMo_C" and hyper["weight_decay"] != 0:
        reasons.append("aggmo_wd_twice")  # with kappa 0 as well, where the manifest is silent
    if not case["exact_min_matches"]:
        reasons.append("heap_root_not_min")
    if "none_grad" in peculiarities and synced:
        reasons.append("none_grad")
    if case["gradients"] == "edge":
        reasons.append("zero gradient stored")
    if hyper.get("critical_test") is False:
        reasons.append("critical_test_false")
    reasons += sorted(
        peculiarities
        & {
            "wd_before_buffer",
            "cm_critical_test",
            "cm_rmsprop_no_current",
            "double_counts",
            "only_buffer",
            "kappa_mutates_buffer",
        }
    )
    return reasons


def library_call(case):
    """The name of the class and its options."""
    options = options_of(case)
    if case["cls"] == "AggMo":
        return "AggMo", {name: options[name] for name in BASE_NAMES if name in options}
    if case["cls"] == "AggMo_C":
        assert options.pop("dampening") == 0
    options["aggregate"] = options["aggregate"].replace("-", "_")
    if "betas" in options:
        options["betas"] = tuple(options["betas"])
    synced = case["hyperparameters"].get("synced", "synced_sum_of_norms" in case["peculiarities"])
    options |= {"scope": "group" if synced else "tensor", "norm": "sum"}
    return LIBRARY_NAMES[rule_of(case)], options


def run_plain_twin(case):
    """The same call, by the twin as it is."""
    _, options = library_call(case)
    order, start = order_of(case), split(DATA["p0"])
    groups = [{"params": [start[i] for i in tensors], **own} for tensors, own in groups_of(case)]
    twin = Twin(rule_of(case), groups=groups, **{"capacity": 0, **options})
    return followed(twin, case, order)


def run_library(case, **execution):
    """Parameters after KEPT_STEPS and insertions, by the library."""
    name, options = library_call(case)
    params = [torch.nn.Parameter(torch.tensor(p)) for p in split(DATA["p0"])]
    groups = [{"params": [params[i] for i in tensors], **own} for tensors, own in groups_of(case)]
    optimizer = getattr(gradmem, name)(groups, **options, **execution)
    rows, inserted = [], np.zeros((STEPS, 3), dtype=bool)
    births = [np.zeros(options.get("capacity", 0), dtype=np.int64)] * 3
    for t, grads in enumerate(gradients(case)):
        for param, grad in zip(params, grads, strict=True):
            param.grad = None if grad is None else torch.tensor(grad)
        optimizer.step()
        rows.append(np.concatenate([p.detach().numpy().ravel() for p in params]))
        for i, param in enumerate(params):
            if "memory_birth" in optimizer.state[param]:
                birth = optimizer.state[param]["memory_birth"].numpy().copy()
                inserted[t, i] = (birth != births[i]).any()
                births[i] = birth
    return np.array(rows)[KEPT_STEPS - 1], inserted
