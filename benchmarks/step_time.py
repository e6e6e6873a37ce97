"""Time of a step against torch's, as ratios measured side by side.

    python benchmarks/step_time.py

Optimizers take turns on the same parameters, one step each, so that a machine that changes speed
changes it for all; the median of each is divided by that of torch's fused Adam. "keeps" is a memory
that refuses every gradient, "replaces" one that takes every gradient.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from gradmem import Adam_C

SETS = {
    "0.1M in 4 (MLP)": [(128, 784), (128,), (10, 128), (10,)],
    "11M in 62": [(11_000_000 // 62,)] * 62,
    "25M in 150": [(25_000_000 // 150,)] * 150,
    "100M in 12": [(100_000_000 // 12,)] * 12,
}


def contestants(params: list[torch.nn.Parameter]) -> dict[str, torch.optim.Optimizer]:
    keeps, replaces = {"decay": 1.0, "capacity": 10}, {"policy": "fifo", "capacity": 10}
    return {
        "Adam, fused": torch.optim.Adam(params, fused=True),
        "Adam": torch.optim.Adam(params),
        "Adam_C keeps": Adam_C(params, **keeps),
        "Adam_C replaces": Adam_C(params, **replaces),
        "Adam_C keeps, fused": Adam_C(params, fused=True, **keeps),
        "Adam_C replaces, fused": Adam_C(params, fused=True, **replaces),
    }


def measure(shapes: list[tuple[int, ...]], repeats: int) -> dict[str, float]:
    params = [torch.nn.Parameter(torch.randn(shape) * 0.01) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    optimizers = contestants(params)
    for optimizer in optimizers.values():
        for _ in range(12):  # fills the memory
            optimizer.step()
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for _ in range(repeats):
        for name, optimizer in optimizers.items():
            begin = time.perf_counter()
            optimizer.step()
            seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {name: median / medians["Adam, fused"] for name, median in medians.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("sets", nargs="*", help=f"of: {', '.join(SETS)}")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for name in chosen.sets or SETS:
        ratios = measure(SETS[name], chosen.repeats)
        print(name, *(f"{key} {ratio:.2f}" for key, ratio in ratios.items()), sep=" | ", flush=True)


if __name__ == "__main__":
    main()
