"""The library and the twin over the same gradients, compared after every step."""

from __future__ import annotations

import numpy as np
import torch

import gradmem
from gradmem.optim.state import store_of
from reference import Twin

CLASSES = {
    "sgd": "SGD_C",
    "rmsprop": "RMSprop_C",
    "adam": "Adam_C",
    "adamw": "AdamW_C",
    "nadam": "NAdam_C",
    "radam": "RAdam_C",
    "adagrad": "Adagrad_C",
    "aggmo": "AggMo_C",
}
FUSED = ("sgd", "adam", "adamw", "adagrad")
FORMS = [
    (rule, form)
    for rule in CLASSES
    for form in ({"foreach": False}, {"foreach": True}, {"fused": True})
    if rule in FUSED or "fused" not in form
]
# Rules and memory options do not meet in the code: where many of both are crossed, one form of each
# of these rules is enough.
SINGLE = {
    "nadam": {"foreach": False},
    "radam": {"foreach": True},
    "adagrad": {"fused": True},
    "aggmo": {"foreach": True},
}
FEWER_FORMS = [(rule, form) for rule, form in FORMS if SINGLE.get(rule, form) == form]


def form_ids(forms):
    kinds = ("fused" if "fused" in f else "foreach" if f["foreach"] else "loop" for _, f in forms)
    return [f"{rule}-{kind}" for (rule, _), kind in zip(forms, kinds, strict=True)]


TOLERANCE = 1e-12


class Race:
    """Both optimizers with the same options. `groups`: pairs of shapes and the group's options."""

    twin_class = Twin
    names = CLASSES

    def __init__(self, rule, groups, form, number=0, dtype=float, **options):
        self.rng = np.random.default_rng(number)
        self.dtype = dtype
        starts = [[self.normal(shape) for shape in shapes] for shapes, _ in groups]
        self.twin = self.twin_class(
            rule,
            groups=[
                {"params": start, **own} for start, (_, own) in zip(starts, groups, strict=True)
            ],
            **options,
        )
        library = [
            {"params": [torch.nn.Parameter(torch.tensor(p)) for p in start], **own}
            for start, (_, own) in zip(starts, groups, strict=True)
        ]
        self.params = [p for group in library for p in group["params"]]
        self.optimizer = getattr(gradmem, self.names[rule])(library, **options, **form)
        self.comparable = [True] * len(self.params)
        self.had_gradient = [False] * len(self.params)
        self.steps = 0
        # torch's fused SGD itself cannot begin some momentum buffers later than others
        self.begin_together = rule == "sgd" and form.get("fused", False)

    def normal(self, shape):
        real = self.rng.normal(size=shape)
        number = real + 1j * self.rng.normal(size=shape) if self.dtype is complex else real
        return np.asarray(number)

    def gradients(self, spread=1.0):
        """Normal numbers times one lognormal factor, so that norms differ between steps."""
        scale = np.exp(spread * self.rng.normal())
        return [self.normal(p.shape) * scale for p in self.twin.params]

    def add_group(self, shapes, **options):
        start = [self.normal(shape) for shape in shapes]
        params = [torch.nn.Parameter(torch.tensor(p)) for p in start]
        self.twin.add_group(start, **options)
        self.optimizer.add_param_group({"params": params, **options})
        self.params += params
        self.comparable += [True] * len(params)
        self.had_gradient += [False] * len(params)

    def edit(self, group, **options):
        self.twin.groups[group].update(options)
        self.optimizer.param_groups[group].update(options)

    def step(self, grads):
        for p, grad in zip(self.params, grads, strict=True):
            p.grad = None if grad is None else torch.tensor(grad)
        self.optimizer.step()
        self.twin.step(grads)
        self.steps += 1
        for i, (p, grad) in enumerate(zip(self.params, grads, strict=True)):
            if grad is not None:
                np.testing.assert_array_equal(p.grad.numpy(), grad, self.where(i, "p.grad"))
                self.had_gradient[i] = True
                self.comparable[i] &= bool(np.isfinite(grad).all())
        self.compare()

    def compare(self):
        for i in range(len(self.params)):
            if self.comparable[i]:
                ours = self.params[i].detach().numpy()
                self.close(ours, self.twin.params[i], i, "the parameter")
            self.compare_memory(i)

    def compare_memory(self, i):
        options = self.twin.options(i)
        ledger, slots = self.twin.ledger_of(i), self.twin.memory_of(i)
        state = self.optimizer.state.get(self.params[i], {})
        if "memory_birth" not in state:
            off = options["capacity"] == 0 or options["kappa"] == 0
            assert off or not self.had_gradient[i], self.where(i, "no memory")
            return
        birth = [0 if slot is None else slot[2] for slot in slots]
        assert state["memory_birth"].tolist() == birth, self.where(i, "births")
        for name, column in (("memory_priority", 0), ("memory_norm", 1)):
            expected = [0.0 if slot is None else slot[column] for slot in slots]
            self.close(state[name].numpy(), expected, i, name)
        total = np.zeros_like(self.twin.params[i])
        for k, slot in enumerate(slots):
            if slot is not None:
                total = total + slot[3]
                stored = store_of(state).read(k).to(state["memory_sum"].dtype)
                self.close(stored.numpy(), slot[3], i, f"slot {k}")
        self.close(state["memory_sum"].numpy(), total, i, "the running sum")
        steps, accepted = state["memory_counters"][:2].tolist()
        assert steps == ledger.step, self.where(i, "steps seen")
        assert accepted == sum(ledger.accepted), self.where(i, "accepted")

    def close(self, ours, expected, i, what):
        np.testing.assert_allclose(
            ours, expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=self.where(i, what)
        )

    def where(self, i, what):
        return f"{what} of tensor {i} after step {self.steps}"
