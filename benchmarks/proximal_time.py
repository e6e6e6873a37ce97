"""Time of the proximal step against the optimizer's own, as ratios measured side by side.

    python benchmarks/proximal_time.py

The two parts of a ProximalOptimizer's step take turns, so that a machine that changes speed changes
it for both; the median of the ratios is printed. The optimizer is torch's fused AdamW, or a fused
AdamW_C whose memory takes every gradient. l-infinity sorts, and a large set takes minutes.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time

import torch

from gradmem import AdamW_C
from gradmem.proximal import ProximalOptimizer
from gradmem.proximal.apply import proximal_step

SETS = {
    "11M in 62, rows": [(384, 462)] * 62,
    "11M in 62, convolutions": [(128, 154, 3, 3)] * 62,
    "25M in 24, rows": [(1020, 1021)] * 24,
    "0.1M in 2, rows": [(128, 784), (10, 128)],
}
CASES = {
    "group_lasso, plain": {"metric": "plain"},
    "group_lasso": {},
    "group_linf": {"regularizer": "group_linf"},
    "group_mcp, plain": {"regularizer": "group_mcp", "metric": "plain"},
    "group_mcp": {"regularizer": "group_mcp"},
}
OPTIMIZERS = {
    "adamw": torch.optim.AdamW,
    "adamw_c": functools.partial(AdamW_C, policy="fifo"),
}


def measure(
    shapes: list[tuple[int, ...]],
    optimizer_name: str,
    penalty: float,
    options: dict[str, object],
    repeats: int,
) -> float:
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    # Gradients around 1, so that d is too, and an eps with which MCP is convex.
    base = OPTIMIZERS[optimizer_name](params, lr=1e-3, eps=1e-3, fused=True)
    optimizer = ProximalOptimizer(base, penalty=penalty, **options)
    for _ in range(12):  # fills a memory
        optimizer.step()
    ratios: list[float] = []
    for round_ in range(repeats + 2):
        begin = time.perf_counter()
        optimizer._step_optimizer(None)
        middle = time.perf_counter()
        with torch.no_grad():
            for group in optimizer.param_groups:
                proximal_step(group, optimizer.state)
        end = time.perf_counter()
        if round_ >= 2:
            ratios.append((end - middle) / (middle - begin))
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--penalty", type=float, default=1e-3)
    parser.add_argument("--cases", nargs="*", help=f"of: {', '.join(CASES)}")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw")
    parser.add_argument("sets", nargs="*", help=f"of: {', '.join(SETS)}")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for name in chosen.sets or SETS:
        for case in chosen.cases or CASES:
            ratio = measure(
                SETS[name], chosen.optimizer, chosen.penalty, CASES[case], chosen.repeats
            )
            print(f"{name} | {case} | {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
