"""The proximal step in plain Python floats and lists, by bisection: what it is defined to be."""

from __future__ import annotations

import math

import torch


def bisect(function, low, high):
    """The root of a function that is positive at `low` and not at `high`."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return (low + high) / 2


def lasso(x, d, s, a=0.0):
    """a = step / gamma makes it MCP."""
    norm = math.sqrt(sum((b * v) ** 2 for b, v in zip(d, x, strict=True)))
    if norm <= s:
        return [0.0] * len(x)
    length = math.sqrt(sum(v * v for v in x))
    if a * length >= s:
        return list(x)

    def excess(t):
        return sum((b * v / ((b - a) * t + s)) ** 2 for b, v in zip(d, x, strict=True)) - 1

    t = bisect(excess, 0.0, length if a == 0.0 else s / a)
    return [b * t / ((b - a) * t + s) * v for b, v in zip(d, x, strict=True)]


def linf(x, d, s):
    if sum(b * abs(v) for b, v in zip(d, x, strict=True)) <= s:
        return [0.0] * len(x)

    def excess(c):
        return sum(b * max(abs(v) - c, 0.0) for b, v in zip(d, x, strict=True)) - s

    c = bisect(excess, 0.0, max(map(abs, x)))
    return [math.copysign(min(abs(v), c), v) for v in x]


def proximal(name, x, d, s, step, gamma):
    if name == "group_linf":
        return linf(x, d, s)
    return lasso(x, d, s, step / gamma if name == "group_mcp" else 0.0)


def diagonal(base, group, state, shape):
    """d of the last step, as a flat list."""
    count = math.prod(shape)
    if isinstance(base, torch.optim.SGD):
        return [1.0] * count
    if isinstance(base, torch.optim.RMSprop):
        squares = state["square_avg"].flatten().tolist()
        means = state["grad_avg"].flatten().tolist() if group["centered"] else [0.0] * count
        pairs = zip(squares, means, strict=True)
        return [math.sqrt(v - m * m) + group["eps"] for v, m in pairs]
    squares = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"].flatten().tolist()
    correction = 1 - float(group["betas"][1]) ** float(state["step"])
    return [math.sqrt(v / correction) + group["eps"] for v in squares]


def step(base, *, name, penalty, groups, metric="diagonal", reweight=True, gamma=3.0):
    """The proximal step after a step of `base`; groups: by parameter, lists of flat indices."""
    for group in base.param_groups:
        lr = float(group["lr"])
        for p in group["params"]:
            if p not in groups or p.grad is None:
                continue
            d = diagonal(base, group, base.state[p], p.shape)
            d = d if metric == "diagonal" else [1.0] * len(d)
            values = p.detach().flatten().tolist()
            for indices in groups[p]:
                weight = math.sqrt(len(indices)) if reweight else 1.0
                x, some = [values[i] for i in indices], [d[i] for i in indices]
                z = proximal(name, x, some, lr * penalty * weight, lr, gamma)
                for i, value in zip(indices, z, strict=True):
                    values[i] = value
            with torch.no_grad():
                p.copy_(torch.tensor(values, dtype=p.dtype).view(p.shape))


def indices(shape, axis, view=None):
    """The flat indices of each group."""
    numbers = torch.arange(math.prod(shape)).view(view or shape)
    return [numbers.select(axis, i).flatten().tolist() for i in range(numbers.shape[axis])]
