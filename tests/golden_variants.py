"""The released programs, as variants of the twin: what they do differently, one flag or class each.

Every name in FLAGS and every class is a peculiarity that golden/manifest.json describes. `Released`
has what all of them share: each tensor keeps its own buffer; tensors without a gradient are skipped
(no decay, no ageing: `none_grad`); a zero gradient is stored like any other; and with `synced` all
tensors of a group share the sum of their norms as priority (`synced_sum_of_norms`).
"""

from __future__ import annotations

import heapq

import numpy as np

from reference import Slot, Twin, total_norm

FLAGS = {
    "synced": False,  # synced_sum_of_norms
    "heap": False,  # heap_root_not_min
    "stored_weight_decay": 0.0,  # wd_before_buffer; also aggmo_wd_twice
    "critical_test": True,  # False: critical_test_false
    "overwrite": 0.0,  # cm_critical_test: probability of overwriting without looking
    "mutates": False,  # kappa_mutates_buffer
    "insert_first": False,  # double_counts
    "only_buffer": False,  # only_buffer
    "without_current": False,  # cm_rmsprop_no_current
}


class Item(Slot):
    """A slot that compares by priority, for heapify."""

    def __lt__(self, other):
        return self.priority < other.priority


class Released(Twin):
    """A released program with its flags; see the module's docstring."""

    def __init__(self, rule, groups, seed=None, **options):
        super().__init__(rule, groups=groups, **{**FLAGS, **options, "scope": "tensor"})
        self.draws = None if seed is None else np.random.RandomState(seed)
        for ledger in self.ledgers:
            ledger.smallest = 0
            if self.options(ledger.members[0])["heap"]:
                ledger.slots = []

    def norm_of(self, ledger, grads, options):
        members = ledger.members
        if options["synced"]:
            group = self.group_of[members[0]]
            members = [i for i in range(len(grads)) if self.group_of[i] == group]
        return total_norm([grads[i] for i in members], "sum")

    def sees(self, ledger, grads, norm, options):
        return options["kappa"] != 0 and grads[ledger.members[0]] is not None

    def incoming(self, i, grad):
        return grad + self.options(i)["stored_weight_decay"] * self.params[i]

    def step_ledger(self, ledger, grads):
        (i,) = ledger.members
        options = self.options(i)
        accepted = False
        if grads[i] is not None:
            norm = self.norm_of(ledger, grads, options)
            incoming = self.incoming(i, grads[i])
            update = self.aggregate(ledger, i, incoming, options)
            if self.sees(ledger, grads, norm, options):
                ledger.step += 1
                accepted = self.retain(ledger, norm, {i: incoming}, options)
                if options["insert_first"]:
                    update = self.aggregate(ledger, i, incoming, options)
                self.decay(ledger, options)
            self.update(i, update)
        ledger.accepted.append(accepted)

    def make_slot(self, ledger, norm, incoming, options):
        slot = super().make_slot(ledger, norm, incoming, options)
        if options["policy"] == "fifo":  # fifo_count_priority
            slot.priority = float(ledger.step)
        return slot

    def decay(self, ledger, options):
        if options["policy"] != "fifo":  # fifo_count_priority
            for slot in ledger.slots:
                if slot is not None:
                    slot.priority *= options["decay"]

    # ------------------------------------------------------------ what is kept

    def retain(self, ledger, norm, incoming, options):
        if not options["heap"]:
            return super().retain(ledger, norm, incoming, options)
        slot = self.make_slot(ledger, norm, incoming, options)
        items, capacity = ledger.slots, options["capacity"]
        full = len(items) == capacity
        if full and options["critical_test"] and not slot.priority > items[0].priority:
            return False
        items.append(Item(slot.priority, slot.norm, slot.birth, slot.gradients))
        heapq.heapify(items)
        del items[:-capacity]  # the smallest goes; what is left need not be a heap
        return True

    def choose(self, ledger, offered, options):
        if self.draws is None or None in ledger.slots:
            return super().choose(ledger, offered, options)
        if self.draws.uniform() < options["overwrite"]:
            return ledger.smallest
        ledger.smallest = min(range(len(ledger.slots)), key=lambda k: ledger.slots[k].priority)
        return super().choose(ledger, offered, options)

    # ------------------------------------------------------------ what is made of it

    def aggregate(self, ledger, i, grad, options):
        items = [slot for slot in ledger.slots if slot is not None]
        if not items or options["kappa"] == 0:
            return grad
        if options["only_buffer"]:
            total = sum(item.gradients[i] for item in items)
            scale = 1 if options["aggregate"] == "sum" else len(items)
            return options["kappa"] * total / scale
        if options["without_current"]:
            return sum(item.gradients[i] for item in items) / len(items)
        name = options["aggregate"].removesuffix("-mean")
        if name not in ("min", "median", "max"):
            return super().aggregate(ledger, i, grad, options)
        item = selected(items, name)
        part = options["kappa"] * item.gradients[i]
        if options["mutates"]:
            item.gradients[i] = part
        both = grad + part
        return both / 2 if options["aggregate"].endswith("-mean") else both


def selected(items, name):
    """The item the order aggregates take; "min" is the list's first (min_uses_root)."""
    if name == "min":
        return items[0]
    if name == "max":
        return max(items, key=lambda item: item.priority)
    return sorted(items, key=lambda item: item.priority)[len(items) // 2]


class CriticalMomenta(Released):
    """Adam_CM as released: cm_first_step_zero, cm_v_of_aggregate, cm_decoupled_wd."""

    def update(self, i, grad):
        """`grad` is the aggregated momentum already; the base rule's own is left out."""
        state, options = self.state[i], self.options(i)
        beta1, beta2 = options["betas"]
        t = state["step"] = state.get("step", 0) + 1
        v = state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * grad * grad
        if options["amsgrad"]:
            v = state["v_max"] = np.maximum(state.get("v_max", 0.0), v)
        denominator = np.sqrt(v) / np.sqrt(1 - beta2**t) + options["eps"]
        kept = (1 - options["lr"] * options["weight_decay"]) * self.params[i]
        self.params[i] = kept - options["lr"] / (1 - beta1**t) * grad / denominator

    def incoming(self, i, grad):
        state, beta1 = self.state[i], self.options(i)["betas"][0]
        if "m" not in state:  # the raw gradient is stored and no momentum made
            state["m"] = np.zeros_like(grad)
            return grad
        state["m"] = beta1 * state["m"] + (1 - beta1) * grad
        return state["m"]

    def aggregate(self, ledger, i, grad, options):
        if ledger.step == 0:
            return np.zeros_like(grad)
        return super().aggregate(ledger, i, grad, options)


class Saga:
    """SAGA as released: saga_sign, and saga_float32_buffer through `dtype`."""

    def __init__(self, params, lr, n_samples, dtype):
        self.params, self.lr = [np.array(p) for p in params], lr
        self.seen = [np.zeros((n_samples, *p.shape), dtype=dtype) for p in params]

    def step(self, grads, index):
        for i, grad in enumerate(grads):
            rows = self.seen[i]
            total = rows[0]
            for row in rows[1:]:
                total = total + row
            correction = total / rows.dtype.type(len(rows)) - rows[index]
            rows[index] = grad
            self.params[i] = self.params[i] - self.lr * (grad - correction)
