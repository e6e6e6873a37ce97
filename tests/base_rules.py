"""The base rules of the twin: what each optimizer does with the aggregate, one method each."""

from __future__ import annotations

import math

import numpy as np

_ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False, "maximize": False}
BASE_DEFAULTS = {
    "sgd": {
        "lr": 1e-3,
        "momentum": 0.0,
        "dampening": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
        "maximize": False,
        "aggregate": "sum",
    },
    "rmsprop": {
        "lr": 1e-2,
        "alpha": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "centered": False,
        "maximize": False,
    },
    "adam": {**_ADAM, "weight_decay": 0.0, "decoupled_weight_decay": False},
    "adamw": {**_ADAM, "weight_decay": 1e-2, "decoupled_weight_decay": True},
    "nadam": {
        **_ADAM,
        "lr": 2e-3,
        "weight_decay": 0.0,
        "momentum_decay": 4e-3,
        "decoupled_weight_decay": False,
    },
    "radam": {**_ADAM, "weight_decay": 0.0, "decoupled_weight_decay": False},
    "adagrad": {
        "lr": 1e-2,
        "lr_decay": 0.0,
        "weight_decay": 0.0,
        "initial_accumulator_value": 0.0,
        "eps": 1e-10,
        "maximize": False,
    },
    "aggmo": {
        "lr": 1e-3,
        "betas": (0.0, 0.9, 0.99),
        "weight_decay": 0.0,
        "maximize": False,
        "aggregate": "sum",
    },
}


class BaseRules:
    """Mixed into the twin: `update` moves tensor i, with its options, parameters and state."""

    def update(self, i, grad):
        """The base rule on tensor i, with the aggregate in place of the gradient."""
        options = self.options(i)
        if options.get("maximize", False):
            grad = -grad
        param, state = self.params[i], self.state[i]
        if options["weight_decay"] != 0:
            if options.get("decoupled_weight_decay", False):
                param = param * (1 - options["lr"] * options["weight_decay"])
            else:
                grad = grad + options["weight_decay"] * param
        move = getattr(self, f"move_{'adam' if self.rule == 'adamw' else self.rule}")
        change = as_complex(move(as_real(grad), state, options), like=param)
        self.params[i] = np.array(param + change).reshape(param.shape)

    def move_sgd(self, grad, state, options):
        momentum = options["momentum"]
        if momentum != 0:
            if "buffer" not in state:
                state["buffer"] = grad
            else:
                fresh = (1 - options["dampening"]) * grad
                state["buffer"] = momentum * state["buffer"] + fresh
            grad = grad + momentum * state["buffer"] if options["nesterov"] else state["buffer"]
        return -options["lr"] * grad

    def move_rmsprop(self, grad, state, options):
        alpha = options["alpha"]
        square = alpha * state.get("square", 0.0) + (1 - alpha) * grad * grad
        state["square"] = square
        if options["centered"]:
            state["average"] = alpha * state.get("average", 0.0) + (1 - alpha) * grad
            square = square - state["average"] * state["average"]
        direction = grad / (np.sqrt(square) + options["eps"])
        if options["momentum"] > 0:
            state["buffer"] = options["momentum"] * state.get("buffer", 0.0) + direction
            direction = state["buffer"]
        return -options["lr"] * direction

    def move_adam(self, grad, state, options):
        beta1, beta2 = options["betas"]
        t = state["step"] = state.get("step", 0) + 1
        m = state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * grad
        v = state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * grad * grad
        if options["amsgrad"]:
            v = state["v_max"] = np.maximum(state.get("v_max", 0.0), v)
        denominator = np.sqrt(v) / math.sqrt(1 - beta2**t) + options["eps"]
        return -options["lr"] / (1 - beta1**t) * m / denominator

    def move_nadam(self, grad, state, options):
        beta1, beta2 = options["betas"]
        t = state["step"] = state.get("step", 0) + 1
        mu, mu_next = (
            beta1 * (1 - 0.5 * 0.96 ** (s * options["momentum_decay"])) for s in (t, t + 1)
        )
        # torch keeps this product in float32, whatever the parameter's type
        state["mu_product"] = np.float32(state.get("mu_product", 1.0)) * np.float32(mu)
        product = float(state["mu_product"])
        m = state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * grad
        v = state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * grad * grad
        direction = (1 - mu) / (1 - product) * grad + mu_next / (1 - product * mu_next) * m
        return -options["lr"] * direction / (np.sqrt(v / (1 - beta2**t)) + options["eps"])

    def move_radam(self, grad, state, options):
        beta1, beta2 = options["betas"]
        t = state["step"] = state.get("step", 0) + 1
        m = state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * grad
        v = state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * grad * grad
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * t * beta2**t / (1 - beta2**t)
        adapted = 1.0
        if length > 5:
            rectified = (length - 4) * (length - 2) * longest
            rectified /= (longest - 4) * (longest - 2) * length
            adapted = math.sqrt(rectified * (1 - beta2**t)) / (np.sqrt(v) + options["eps"])
        return -options["lr"] / (1 - beta1**t) * m * adapted

    def move_adagrad(self, grad, state, options):
        t = state["step"] = state.get("step", 0) + 1
        start = options["initial_accumulator_value"]
        total = state["sum"] = state.get("sum", start) + grad * grad
        lr = options["lr"] / (1 + (t - 1) * options["lr_decay"])
        return -lr * grad / (np.sqrt(total) + options["eps"])

    def move_aggmo(self, grad, state, options):
        betas = options["betas"]
        velocities = state.setdefault("velocities", [0.0] * len(betas))
        for k, beta in enumerate(betas):
            velocities[k] = beta * velocities[k] + grad
        return -options["lr"] * sum(velocities) / len(betas)


def as_real(x):
    """Complex numbers as pairs of real ones, as torch's rules see them."""
    x = np.asarray(x)
    return np.stack([x.real, x.imag], axis=-1) if np.iscomplexobj(x) else x


def as_complex(x, like):
    return x[..., 0] + 1j * x[..., 1] if np.iscomplexobj(like) else x
