"""The trajectories of the released programs: by a variant of the twin, and by the library.

Every case has exactly one kind:

* ``library``: the program means there what the library means, and the library has to reproduce it;
* ``twin``: a peculiarity of the program stands between, and a variant of the twin that has this
  peculiarity reproduces the case (the library's cases are reproduced by the variants as well);
* ``differs``: reproduced only roughly, for the named reason.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

import golden_cases as golden

TOLERANCE = 1e-10

# The program sums seven float32 numbers in an order that depends on the processor.
DIFFERS = {"c0665": "saga_float32_buffer", "c0666": "saga_float32_buffer"}
ROUGHLY = 1e-6


def kind_of(case):
    if case["id"] in DIFFERS:
        return "differs"
    return "twin" if golden.why_not_library(case) else "library"


def by_class(kinds):
    found = defaultdict(list)
    for case in golden.CASES:
        if kind_of(case) in kinds:
            found[f"{case['source']}-{case['cls']}"].append(case)
    return [pytest.param(cases, id=name) for name, cases in found.items()]


def mismatches(cases, run, tolerance=TOLERANCE):
    """One line for each case that is not reproduced."""
    lines = []
    for case in cases:
        params, inserted = golden.expected(case)
        ours, our_inserted = run(case)
        if not np.allclose(ours, params, rtol=tolerance, atol=tolerance):
            row = int(np.argmax(~np.isclose(ours, params, rtol=tolerance, atol=tolerance).all(1)))
            step, worst = golden.KEPT_STEPS[row], np.abs(ours - params).max()
            lines.append(f"{case['id']}: off by {worst:.1e}, first seen after step {step}")
        if not np.array_equal(our_inserted, inserted):
            step, tensor = np.argwhere(our_inserted != inserted)[0]
            lines.append(f"{case['id']}: step {step + 1}, tensor {tensor}: inserted differs")
    return "\n".join(lines)


@pytest.mark.parametrize("cases", by_class({"twin", "library"}))
def test_a_twin_variant_reproduces_the_program(cases):
    assert not mismatches(cases, golden.run_variant)


@pytest.mark.parametrize("cases", by_class({"library"}))
def test_the_plain_twin_reproduces_what_the_library_has_to(cases):
    assert not mismatches(cases, golden.run_plain_twin)


@pytest.mark.parametrize("cases", by_class({"library"}))
def test_the_library_reproduces_the_program(cases):
    assert not mismatches(cases, lambda case: golden.run_library(case, foreach=False))


@pytest.mark.parametrize("cases", by_class({"differs"}))
def test_the_others_differ_only_for_the_named_reason(cases):
    assert not mismatches(cases, golden.run_variant, ROUGHLY)
    assert mismatches(cases, golden.run_variant)


def test_every_case_has_one_kind():
    assert len(golden.CASES) == len(golden.NUMBER) == 675
    for case in golden.CASES:
        assert kind_of(case) in ("library", "twin", "differs")
        if kind_of(case) == "differs":
            assert golden.why_not_library(case)
            assert DIFFERS[case["id"]] in case["peculiarities"]


def test_what_the_manifest_marks_decides_the_kind():
    for case in golden.CASES:
        if kind_of(case) == "library":
            assert case["exact_min_matches"]
        elif case["cls"] in ("SGD_C", "Adam_C", "AdamW_C", "RMSprop_C"):
            reasons = set(golden.why_not_library(case))
            ours = {"zero gradient stored"}
            assert reasons <= ours | set(case["peculiarities"])


def summary():
    """One line for the terminal."""
    kinds = Counter(kind_of(case) for case in golden.CASES)
    reasons = Counter(
        " + ".join(golden.why_not_library(case)) for case in golden.CASES if kind_of(case) == "twin"
    )
    listed = "; ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
    named = "; ".join(f"{reason}: {count}" for reason, count in Counter(DIFFERS.values()).items())
    return (
        f"golden: {kinds['library']} by the library, {kinds['twin']} by a twin variant ({listed}), "
        f"{kinds['differs']} differ for a named reason ({named})"
    )
