"""What each policy keeps of gradients whose norms fluctuate and whose directions are independent.

    python benchmarks/policies.py

Prints a table: for each policy and decay the share of gradients a full memory accepts, the mean age
at which one enters an update (1 is the step before), and the age at which 95 % of those replaced
had been. SGD_C with lr 0 and capacity 10; norms are lognormal. Equal seeds give equal figures.
"""

from __future__ import annotations

import argparse
import statistics
from typing import NamedTuple, get_args

import torch

from gradmem import SGD_C
from gradmem.memory.options import PolicyName

CAPACITY = 10
DIMENSIONS = 100


class Figures(NamedTuple):
    accepted: float
    mean_age: float
    late_age: float

    def __str__(self) -> str:
        ages = (round(age, 1 if age < 10 else None) for age in (self.mean_age, self.late_age))
        return " | ".join([f"{self.accepted:.0%}", *map(str, ages)])


def measure(policy: str, decay: float, sigma: float, steps: int, seed: int) -> Figures:
    """Figures over so many steps after the memory has filled."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.nn.Parameter(torch.zeros(DIMENSIONS))
    optimizer = SGD_C([weight], lr=0.0, capacity=CAPACITY, policy=policy, decay=decay, seed=seed)
    ages, ages_when_replaced, before = [], [], [0] * CAPACITY
    for step in range(1, CAPACITY + steps + 1):
        direction = torch.randn(DIMENSIONS, generator=generator)
        norm = torch.exp(sigma * torch.randn((), generator=generator))
        weight.grad = direction / direction.norm() * norm
        optimizer.step()
        births = optimizer.state[weight]["memory_birth"].tolist()
        if step > CAPACITY:
            ages += [step - birth for birth in before]
            replaced = [old for old, new in zip(before, births, strict=True) if old != new]
            ages_when_replaced += [step - birth for birth in replaced]
        before = births
    late = statistics.quantiles(ages_when_replaced, n=20)[-1] if ages_when_replaced[1:] else 0.0
    return Figures(len(ages_when_replaced) / steps, statistics.fmean(ages), late)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--sigma", type=float, default=0.3, help="of the norms' logarithm")
    parser.add_argument("--decay", type=float, nargs="+", default=[0.7, 0.99])
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    heads = [x for d in chosen.decay for x in (f"decay {d:g}: accepted", "mean age", "95 %")]
    print("|", " | ".join(["policy", *heads]), "|")
    print("|---" * (1 + len(heads)), end="|\n")
    for policy in get_args(PolicyName):
        found = [measure(policy, d, chosen.sigma, chosen.steps, chosen.seed) for d in chosen.decay]
        print("|", " | ".join([f'`"{policy}"`', *map(str, found)]), "|", flush=True)


if __name__ == "__main__":
    main()
