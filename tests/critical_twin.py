"""The twin of the optimizers with critical momenta, and the race against it.

What the twin of `reference` does with gradients, this one does with momenta: each gradient goes
into its tensor's momentum, which is combined with the memory and stored in it, ranked by the norm
of the gradient. Switched off it is the twin it comes from.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from base_rules import BASE_DEFAULTS, as_complex, as_real
from races import Race
from reference import Twin, total_norm

MEMORY = {"capacity": 5, "aggregate": "sum"}
DEFAULTS = {
    "sgd": {**BASE_DEFAULTS["sgd"], **MEMORY, "momentum": 0.9},
    "adam": {**BASE_DEFAULTS["adam"], **MEMORY},
    "adamw": {**BASE_DEFAULTS["adamw"], **MEMORY},
}


class CriticalTwin(Twin):
    """A rule of the twin, "sgd", "adam" or "adamw", with a memory of momenta."""

    def __init__(self, rule, params=None, groups=None, **options):
        super().__init__(rule, params, groups, **{**DEFAULTS[rule], **options})
        self.offered = {}

    def remembers(self, i):
        options = self.options(i)
        return options["capacity"] > 0 and options["kappa"] != 0

    def sees(self, ledger, grads, norm, options):
        """Only what is finite when it is stored."""
        with_gradient = [i for i in ledger.members if grads[i] is not None]
        finite = all(np.all(np.isfinite(self.offered[i])) for i in with_gradient)
        return super().sees(ledger, grads, norm, options) and finite

    def make_slot(self, ledger, norm, incoming, options):
        """Ranked by the gradient, but of the momentum's norm."""
        slot = super().make_slot(ledger, norm, incoming, options)
        return replace(slot, norm=total_norm(list(slot.gradients.values()), options["norm"]))

    # ---------------------------------------------------------------- the rules

    def incoming(self, i, grad):
        self.offered[i] = self.momentum(i, grad)
        return self.offered[i]

    def momentum(self, i, grad):
        """With maximize it is one of negatives, and stored as one of gradients."""
        options = self.options(i)
        if not self.remembers(i) or options.get("momentum") == 0:
            return grad
        sign = -1 if options["maximize"] else 1
        make = self.momentum_sgd if self.rule == "sgd" else self.momentum_adam
        return sign * as_complex(make(as_real(sign * grad), self.state[i], options), like=grad)

    def momentum_sgd(self, grad, state, options):
        if "buffer" not in state:
            state["buffer"] = grad
        else:
            fresh = (1 - options["dampening"]) * grad
            state["buffer"] = options["momentum"] * state["buffer"] + fresh
        return state["buffer"]

    def momentum_adam(self, grad, state, options):
        beta1, _ = options["betas"]
        state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * grad
        return state["m"]

    def update(self, i, aggregate):
        """The rest of the rule, along the aggregate of momenta."""
        if not self.remembers(i):
            super().update(i, aggregate)
            return
        options, param = self.options(i), self.params[i]
        if options["maximize"]:
            aggregate = -aggregate
        if options.get("decoupled_weight_decay", False):
            param = param * (1 - options["lr"] * options["weight_decay"])
        else:
            aggregate = aggregate + options["weight_decay"] * param
        move = self.along_sgd if self.rule == "sgd" else self.along_adam
        change = as_complex(move(as_real(aggregate), self.state[i], options), like=param)
        self.params[i] = np.array(param + change).reshape(param.shape)

    def along_sgd(self, a, state, options):
        return -options["lr"] * a

    def along_adam(self, a, state, options):
        beta1, beta2 = options["betas"]
        t = state["step"] = state.get("step", 0) + 1
        v = state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * a * a
        if options["amsgrad"]:
            v = state["v_max"] = np.maximum(state.get("v_max", 0.0), v)
        denominator = np.sqrt(v) / np.sqrt(1 - beta2**t) + options["eps"]
        return -options["lr"] / (1 - beta1**t) * a / denominator


class CriticalRace(Race):
    """The library's classes against this twin."""

    twin_class = CriticalTwin
    names = {"sgd": "SGD_CM", "adam": "Adam_CM", "adamw": "AdamW_CM"}  # noqa: RUF012
