"""The slow literal twin of the optimizers with memory: numpy float64, Python lists and loops.

Written from the definition, independent of the library, with no running sum and no shared work:
stored gradients lie in a list, every aggregate sums that list anew. Tests compare the library with
it at every step. Where a rule of another program has to be imitated, subclass and override one of
the small methods (see golden_variants.py).

    twin = Twin("adam", [np.zeros(3)], lr=0.1, capacity=2)
    twin.step([np.ones(3)])
    twin.params, twin.memory_of(0)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from base_rules import BASE_DEFAULTS, BaseRules, as_real

MEMORY_DEFAULTS = {
    "capacity": 10,
    "decay": 0.7,
    "aggregate": "mean",
    "kappa": 1.0,
    "policy": "top_norm",
    "scope": "model",
    "norm": "l2",
    "max_age": None,
    "seed": 0,
    "memory_dtype": None,
    "memory_device": None,
}


@dataclass
class Slot:
    """One stored gradient: the parts of all tensors of its ledger, from one step."""

    priority: float
    norm: float
    birth: int
    gradients: dict[int, np.ndarray]


@dataclass
class Ledger:
    """Which gradients a scope has kept. `members` are indices of tensors."""

    members: list[int]
    slots: list[Slot | None]
    step: int = 0  # steps seen; the first seen step is 1
    accepted: list[bool] = field(default_factory=list)  # one entry a call of step()

    def agrees_with(self, other):
        """Whether both have kept the gradients of the same steps, with the same priorities."""
        return self.step == other.step and self.table() == other.table()

    def table(self):
        return [None if s is None else (s.priority, s.norm, s.birth) for s in self.slots]


class Twin(BaseRules):
    """An optimizer with a memory of gradients. `groups` or `params`, as with torch."""

    def __init__(self, rule, params=None, groups=None, **options):
        self.rule = rule
        if groups is None:
            groups = [{"params": params}]
        self.defaults = {**MEMORY_DEFAULTS, **BASE_DEFAULTS.get(rule, {}), **options}
        self.params, self.groups, self.group_of = [], [], []
        for group in groups:
            for param in group["params"]:
                self.group_of.append(len(self.groups))
                self.params.append(np.array(param))
            own = {name: value for name, value in group.items() if name != "params"}
            self.groups.append({**self.defaults, **own})
        self.state = [{} for _ in self.params]
        self.ledgers = [
            Ledger(members, [None] * self.options(members[0])["capacity"])
            for members in self.scopes()
        ]

    # ---------------------------------------------------------------- what is decided together

    def options(self, i):
        """The options of tensor i: those of its group."""
        return self.groups[self.group_of[i]]

    def scopes(self):
        """The tensors that share one ledger, as lists of indices."""
        found = {}
        for i in range(len(self.params)):
            options = self.options(i)
            if options["scope"] == "tensor":
                key = ("tensor", i)
            elif options["scope"] == "group":
                key = ("group", self.group_of[i])
            else:
                key = ("model", *(options[name] for name in MEMORY_DEFAULTS))
            found.setdefault(key, []).append(i)
        return list(found.values())

    def add_group(self, params, **options):
        """A group more, with the defaults where it names none of its own. It joins the
        ledger its options are equal to, having contributed nothing so far, or begins one.
        """
        new = range(len(self.params), len(self.params) + len(params))
        self.params += [np.array(param) for param in params]
        self.state += [{} for _ in params]
        self.group_of += [len(self.groups)] * len(params)
        self.groups.append({**self.defaults, **options})
        for members in self.scopes():
            joining = [i for i in members if i in new]
            home = next((one for one in self.ledgers if set(one.members) & set(members)), None)
            if joining and home is None:
                capacity = self.options(joining[0])["capacity"]
                self.ledgers.append(Ledger(joining, [None] * capacity))
            elif joining:
                home.members += joining
                for slot in home.slots:
                    if slot is not None:
                        slot.gradients |= {i: np.zeros_like(self.params[i]) for i in joining}

    def regroup(self):
        """After an edit of options: what differs goes on apart, each with a copy of the memory;
        what was apart stays apart, unless the ledgers are the same.
        """
        ledgers = []
        for members in self.scopes():
            together = []
            for i in members:
                old = self.ledger_of(i)
                new = next((one for one in together if one.agrees_with(old)), None)
                if new is None:
                    slots = [None if s is None else replace(s, gradients={}) for s in old.slots]
                    new = Ledger([], slots, old.step, list(old.accepted))
                    together.append(new)
                new.members.append(i)
                for mine, theirs in zip(new.slots, old.slots, strict=True):
                    if mine is not None:
                        mine.gradients[i] = theirs.gradients[i]
            ledgers += together
        self.ledgers = ledgers

    # ---------------------------------------------------------------- one step

    def step(self, grads):
        """One update. `grads` has one array, or None, for each tensor."""
        grads = [None if g is None else np.array(g) for g in grads]
        if self.scopes() != [ledger.members for ledger in self.ledgers]:
            self.regroup()
        with np.errstate(all="ignore"):
            for ledger in self.ledgers:
                self.step_ledger(ledger, grads)

    def step_ledger(self, ledger, grads):
        options = self.options(ledger.members[0])
        with_gradient = [i for i in ledger.members if grads[i] is not None]
        self.drop_expired(ledger, options)
        norm = self.norm_of(ledger, grads, options)
        incoming = {i: self.incoming(i, grads[i]) for i in with_gradient}
        for i in with_gradient:
            self.update(i, self.aggregate(ledger, i, incoming[i], options))
        accepted = False
        if self.sees(ledger, grads, norm, options):
            ledger.step += 1
            accepted = self.retain(ledger, norm, incoming, options)
            for slot in ledger.slots:
                if slot is not None:
                    slot.priority *= options["decay"]
        ledger.accepted.append(accepted)

    def drop_expired(self, ledger, options):
        """A slot older than max_age is empty at the step about to be made."""
        if options["max_age"] is None:
            return
        for k, slot in enumerate(ledger.slots):
            if slot is not None and (ledger.step + 1) - slot.birth > options["max_age"]:
                ledger.slots[k] = None

    def norm_of(self, ledger, grads, options):
        """The norm of the gradient in scope, of what the user hands over."""
        return total_norm([grads[i] for i in ledger.members], options["norm"])

    def incoming(self, i, grad):
        """The gradient that is aggregated and stored."""
        return grad

    def sees(self, ledger, grads, norm, options):
        """Whether the ledger takes note of this step at all."""
        switched_on = options["capacity"] > 0 and options["kappa"] != 0
        return switched_on and math.isfinite(norm) and norm > 0

    def aggregate(self, ledger, i, grad, options):
        """The update handed to the base rule; the current gradient is not stored yet."""
        kappa = options["kappa"]
        if not isinstance(options["aggregate"], str):
            return options["aggregate"](ledger, i, grad, kappa)
        stored = [slot.gradients[i] for slot in ledger.slots if slot is not None]
        n = len(stored)
        if n == 0 or kappa == 0:
            return grad
        total = np.zeros_like(grad)
        for gradient in stored:
            total = total + gradient
        if options["aggregate"] == "mean":
            return (grad + kappa * total) / (n + 1)
        if options["aggregate"] == "sum":
            return grad + kappa * total / n
        if options["aggregate"] == "mid":
            return (grad + kappa * total / n) / 2
        which, _, halved = options["aggregate"].partition("_")
        ranked = sorted(
            (slot for slot in ledger.slots if slot is not None), key=lambda slot: slot.priority
        )
        chosen = {"min": ranked[0], "median": ranked[n // 2], "max": ranked[-1]}[which]
        both = grad + kappa * chosen.gradients[i]
        return both / 2 if halved else both

    def retain(self, ledger, norm, incoming, options):
        """Store the incoming gradient, or not; returns which."""
        slot = self.make_slot(ledger, norm, incoming, options)
        k = self.choose(ledger, slot, options)
        if k is None:
            return False
        for i, part in slot.gradients.items():
            slot.gradients[i] = rounded(part, options["memory_dtype"])
        ledger.slots[k] = slot
        return True

    def make_slot(self, ledger, norm, incoming, options):
        gradients = {}
        for i in ledger.members:
            part = incoming.get(i)
            gradients[i] = np.zeros_like(self.params[i]) if part is None else part.copy()
        priority = 1.0 / norm if options["policy"] == "bottom_norm" else norm
        return Slot(priority, norm, ledger.step, gradients)

    def choose(self, ledger, offered, options):
        """The index of the slot the offered one takes, or None."""
        slots = ledger.slots
        if options["max_age"] is not None:
            for k, slot in enumerate(slots):
                if slot is not None and (ledger.step + 1) - slot.birth > options["max_age"]:
                    return k
        for k, slot in enumerate(slots):
            if slot is None:
                return k
        policy = options["policy"]
        if not isinstance(policy, str):
            return policy(self, ledger, offered)
        return getattr(self, f"choose_{policy}")(ledger, offered, options)

    # ---------------------------------------------------------------- policies, of a full memory

    def choose_top_norm(self, ledger, offered, options):
        k = smallest(ledger)
        return k if offered.priority > ledger.slots[k].priority else None

    choose_bottom_norm = choose_top_norm

    def choose_fifo(self, ledger, offered, options):
        return min(range(len(ledger.slots)), key=lambda k: ledger.slots[k].birth)

    def choose_random(self, ledger, offered, options):
        return int(self.draw(ledger, options) * len(ledger.slots))

    def choose_reservoir(self, ledger, offered, options):
        place = int(self.draw(ledger, options) * ledger.step)
        return place if place < len(ledger.slots) else None

    def choose_proportional(self, ledger, offered, options):
        total = sum(slot.norm for slot in ledger.slots)
        weights = [1 - slot.norm / total for slot in ledger.slots]
        left = self.draw(ledger, options) * sum(weights)
        for k, weight in enumerate(weights):
            if left < weight:
                return k
            left -= weight
        return len(weights) - 1

    def choose_mean_diverse(self, ledger, offered, options):
        mean = mean_of(ledger)
        away = {i: mean[i] - offered.gradients[i] for i in mean}
        length = math.sqrt(inner(mean, mean))
        probability = 1.0 if length == 0 else min(1.0, math.sqrt(inner(away, away)) / length)
        return smallest(ledger) if self.draw(ledger, options) < probability else None

    def choose_cosine_diverse(self, ledger, offered, options):
        probability = (1 - cosine(offered.gradients, mean_of(ledger))) / 2
        return smallest(ledger) if self.draw(ledger, options) < probability else None

    def choose_cosine_similar(self, ledger, offered, options):
        probability = (1 + cosine(offered.gradients, mean_of(ledger))) / 2
        return smallest(ledger) if self.draw(ledger, options) < probability else None

    def draw(self, ledger, options):
        """The number in [0, 1) of this ledger and step: three rounds of SplitMix64's finaliser."""
        bits = splitmix(options["seed"] * GOLDEN + ledger.members[0])
        bits = splitmix(bits + ledger.step)
        return (splitmix(bits) >> 11) / 2**53

    # ---------------------------------------------------------------- looking inside

    def ledger_of(self, i):
        return next(ledger for ledger in self.ledgers if i in ledger.members)

    def memory_of(self, i):
        """Per slot of tensor i: None, or (priority, norm, birth, this tensor's part)."""
        return [
            None if slot is None else (slot.priority, slot.norm, slot.birth, slot.gradients[i])
            for slot in self.ledger_of(i).slots
        ]


LARGEST = {"float32": 2.0**128 - 2.0**104, "bfloat16": 2.0**128 - 2.0**120, "float16": 65504.0}
DIGITS = {"bfloat16": (8, -133), "float16": (11, -24)}  # binary digits; exponent of the smallest


def rounded(values, name):
    """What is read back of numbers that were stored in this format, None for as they are.

    A number beyond a format's largest becomes that; then it goes through float32. For int8 every
    256 numbers, in the order of indices, have a scale.
    """
    if name is None:
        return values
    numbers = [float(x) for x in values.reshape(-1)]
    if name == "int8":
        blocks = [numbers[k : k + 256] for k in range(0, len(numbers), 256)]
        numbers = [x for block in blocks for x in through_codes(block)]
    else:
        numbers = [through_float(x, name) for x in numbers]
    return np.array(numbers, dtype=values.dtype).reshape(values.shape)


def through_float(x, name):
    x = float(np.float32(max(-LARGEST[name], min(LARGEST[name], x))))
    if name == "float32" or x == 0:
        return x
    digits, smallest = DIGITS[name]
    _, exponent = math.frexp(x)  # |x| < 2^exponent
    unit = max(exponent - digits, smallest)
    return math.ldexp(round(math.ldexp(x, -unit)), unit)


def through_codes(block):
    scale = max(abs(x) for x in block) / 127
    scale = float(np.float32(min(scale, LARGEST["float32"] * (1 - 2**-23) / 127)))
    scale = max(scale, 2.0**-126)
    codes = [max(-127, min(127, round(x / scale))) for x in block]
    return [float(np.float32(code * scale)) for code in codes]


GOLDEN = 0x9E3779B97F4A7C15


def splitmix(bits):
    """The next number of SplitMix64, in Python integers."""
    bits = (bits + GOLDEN) % 2**64
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % 2**64
    return bits ^ (bits >> 31)


def smallest(ledger):
    """The slot of smallest priority, the first on a tie."""
    return min(range(len(ledger.slots)), key=lambda k: ledger.slots[k].priority)


def mean_of(ledger):
    """The mean of the stored gradients, by tensor."""
    return {
        i: sum(slot.gradients[i] for slot in ledger.slots) / len(ledger.slots)
        for i in ledger.members
    }


def inner(one, other):
    """The inner product over all tensors; complex numbers count as pairs of real ones."""
    return sum(float(np.sum(as_real(one[i]) * as_real(other[i]))) for i in one)


def cosine(one, other):
    lengths = math.sqrt(inner(one, one) * inner(other, other))
    return 0.0 if lengths == 0 else inner(one, other) / lengths


def total_norm(grads, kind):
    """The L2 norm of all gradients together, or the sum of their own; None counts as zero."""
    squares = [float(np.sum(as_real(g) ** 2)) for g in grads if g is not None]
    if kind == "sum":
        return sum(math.sqrt(square) for square in squares)
    return math.sqrt(sum(squares))
