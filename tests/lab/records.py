"""Records without a training run: what a memory of norms alone does, step by step."""

import math
import random

from gradmem import StepRecord


def simulated(steps=60, capacity=3, decay=0.9, scope="model", seed=0):
    """A memory ruled by top_norm, offered lognormal norms; cosines fall from 1 to 0."""
    chance, slots, records = random.Random(seed), [None] * capacity, []
    for step in range(1, steps + 1):
        norm = math.exp(chance.gauss(0, 1))
        held = [slot[1] for slot in slots if slot]
        k = min(range(capacity), key=lambda k: slots[k][0] if slots[k] else 0.0)
        entered = slots[k] is None or norm > slots[k][0]
        left = slots[k][2] if entered and slots[k] else None
        if entered:
            slots[k] = (norm, norm, step)
        slots = [slot and (slot[0] * decay, *slot[1:]) for slot in slots]
        records.append(
            StepRecord(
                call=step,
                scope=scope,
                step=step,
                seen=True,
                norm=norm,
                stored_norm=sum(held) / len(held) if held else math.nan,
                cosine=1 - step / steps,
                entered=entered,
                slot=k if entered else None,
                left=left,
                left_age=step - left if left else None,
                held=tuple(slot[2] if slot else 0 for slot in slots),
            )
        )
    return records


def unseen(step, capacity=3):
    """A step whose gradient was NaN, before any other."""
    nan = math.nan
    held = (0,) * capacity
    return StepRecord(step, "model", 0, False, nan, nan, nan, False, None, None, None, held)
