"""A program that compiles the accelerator's kernels where there is no device, and says what of.

    python triton_compiler.py typical|all

Prints a line of JSON a kernel: its form, the device's architecture, and how often some instructions
are in its assembly. In a process of its own: tests that run kernels in the interpreter have told
Triton not to compile. Not part of the suite; test_triton_compiler.py starts it.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterator

import torch
import triton.language as tl
from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gradmem.optim.fused import launches, triton_kernels
from gradmem.optim.fused.launches import Form
from gradmem.optim.fused.places import COUNTS
from gradmem.optim.fused.tables import BLOCK, PARAMETERS

ARRAYS = {
    **dict.fromkeys(("table", "grads", "slot", "ends"), "*i64"),
    **dict.fromkeys(("numbers", "corrections", "current", "stored"), "*fp64"),
    **dict.fromkeys(("squares", "values", "sums"), "*fp64"),
    **dict.fromkeys(("update", "write", "due"), "*i1"),
    **dict.fromkeys(("count", "rows", "capacity", "measure"), "i32"),
    "chunks": "*i32",
}
FLOAT32, BFLOAT16, INT8 = torch.float32, torch.bfloat16, torch.int8
# The rules, with the sets of states that there may be.
STATES = {"sgd": (0, 1), "rmsprop": (1, 3, 5, 7), "adam": (3, 7), "critical_adam": (2, 6)}
# Kernels that take some of a form's constants.
OTHERS = {"measure": ("kind", "block"), "renew": ("kind", "slot_kind", "block")}
TYPICAL = [
    Form("sgd", 1, FLOAT32, FLOAT32, None, uniform=True),
    Form("adam", 3, FLOAT32, BFLOAT16, FLOAT32, uniform=True),
    Form("adam", 3, BFLOAT16, INT8, FLOAT32, uniform=False),
]


def forms() -> Iterator[Form]:
    """Every rule with slots of the parameters' type, and every type with Adam."""
    for rule, sets in STATES.items():
        for states, kind in itertools.product(sets, PARAMETERS):
            yield Form(rule, states, kind, kind, None, uniform=True)
    slots = (torch.float32, torch.bfloat16, torch.float16, torch.int8)
    for kind, slot_kind, uniform in itertools.product(PARAMETERS, slots, (True, False)):
        if slot_kind is not kind or not uniform:
            yield Form("adam", 3, kind, slot_kind, None, uniform=uniform)


def assembly(kernel, architecture, constants, **options):
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else ARRAYS[name] for name in names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    target = GPUTarget("cuda", architecture, 32)
    made = compile_kernel(source, target=target, options=options)
    assert made.asm["cubin"]
    return made.asm


def others(architecture):
    options = {"num_warps": 1, "enable_fp_fusion": False}
    for kind in COUNTS:
        constants = {"kind": getattr(tl, launches.TYPES[kind])}
        assembly(triton_kernels.count_steps, architecture, constants, **options)
    for roots in (False, True):
        constants = {"roots": roots, "block": BLOCK}
        assembly(triton_kernels.add_up, architecture, constants, **options)


def main(which: str) -> None:
    for architecture in (80, 90):
        others(architecture)
        for form in TYPICAL if which == "typical" else forms():
            options = {"num_warps": 4, "enable_fp_fusion": False}
            constants = form.constants(triton_kernels)
            made = assembly(triton_kernels.one_pass, architecture, constants, **options)
            text = made["ptx"]
            counts = {
                "barriers": len(
                    re.findall(r"^\s*(?:gpu|ttg)\.barrier", made["ttgir"], re.MULTILINE)
                ),
                "wide loads": len(re.findall(r"ld\.global\.v\d", text)),
                "wide stores": len(re.findall(r"st\.global\.v\d", text)),
                "fused": len(re.findall(r"\bfma\.", text)),
                "approximate": len(re.findall(r"(?:div|sqrt)\.(?:approx|full)", text)),
            }
            for kernel, names in OTHERS.items():
                own = form.constants(triton_kernels, *names)
                assembly(getattr(triton_kernels, kernel), architecture, own, **options)
            report = {"form": list(map(str, form)), "architecture": architecture, **counts}
            sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
