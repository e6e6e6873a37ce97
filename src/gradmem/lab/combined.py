"""Several optimizers as one, each on parameters of its own; and Muon as its users run it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Group: TypeAlias = dict[str, Any]
Parameters: TypeAlias = Iterable[Tensor] | Iterable[Group]


class Combined(torch.optim.Optimizer):
    """Several optimizers stepped one after the other, saved and loaded as one.

    The parts keep their groups and share one state, so a scheduler, ``zero_grad``, ``state_dict``
    and ``load_state_dict`` see a single optimizer.

    >>> weight, bias = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    >>> both = Combined([torch.optim.SGD([weight], lr=0.1), torch.optim.Adam([bias], lr=0.5)])
    >>> (weight.sum() + bias.sum()).backward()
    >>> both.step()
    >>> [round(value, 4) for p in (weight, bias) for value in p.tolist()]
    [0.9, 0.9, 0.5, 0.5]
    """

    def __init__(self, parts: Iterable[torch.optim.Optimizer]) -> None:
        self.parts = tuple(parts)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every part; the closure is evaluated once, before them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, into the parts too."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Let the parts work on this optimizer's own groups and state."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state


def muon(
    model: nn.Module,
    parameters: Parameters,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    adam_lr: float,
) -> torch.optim.Optimizer:
    """Muon on hidden matrices, AdamW on everything else, as Muon's author advises.

    Everything else is embeddings, the output layer, biases and whatever is not a matrix; in a model
    of one layer that is all there is.
    """
    kept_out = _ends(model)
    hidden, rest = [], []
    for group in as_groups(parameters):
        matrices = [p for p in group["params"] if p.ndim == 2 and p not in kept_out]
        others = [p for p in group["params"] if p.ndim != 2 or p in kept_out]
        hidden += [{**group, "params": matrices}] if matrices else []
        rest += [{**group, "params": others}] if others else []
    parts: list[torch.optim.Optimizer] = []
    if hidden:
        parts.append(torch.optim.Muon(hidden, lr=lr, momentum=momentum, weight_decay=weight_decay))
    if rest:
        parts.append(torch.optim.AdamW(rest, lr=adam_lr, weight_decay=weight_decay))
    return Combined(parts)


def as_groups(parameters: Parameters) -> list[Group]:
    """Parameters or groups of them, as groups."""
    given: list[Any] = list(parameters)
    if given and isinstance(given[0], Mapping):
        return [{**group, "params": list(group["params"])} for group in given]
    return [{"params": given}]


def _ends(model: nn.Module) -> set[Tensor]:
    """The weights of embeddings and of the last linear layer."""
    modules = list(model.modules())
    linear = [module.weight for module in modules if isinstance(module, nn.Linear)]
    tables = [
        module.weight for module in modules if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    ]
    return {*linear[-1:], *tables}
