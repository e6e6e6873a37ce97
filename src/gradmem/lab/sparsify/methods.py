"""The methods that are compared: a base, and how a penalty on its channels is put into it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

from torch import nn
from torch.optim import Optimizer

from gradmem.lab.errors import ConfigError, hint
from gradmem.lab.optimizers import OPTIMIZERS
from gradmem.proximal import Groups, ProximalOptimizer

Kind: TypeAlias = Literal["none", "diagonal", "plain", "subgradient"]
Cut: TypeAlias = Mapping[nn.Parameter, Groups]

KINDS: tuple[Kind, ...] = get_args(Kind)
BASES = ("adamw", "adamw_c", "adam", "adam_c")
DEFAULT_BASES = BASES[:2]
WORDS: Mapping[Kind, str] = {
    "none": "no penalty",
    "diagonal": "diagonal metric",
    "plain": "plain metric",
    "subgradient": "subgradient",
}


@dataclass(frozen=True)
class Method:
    """A base optimizer with a penalty, or without one."""

    base: str
    kind: Kind

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        return self.base if self.kind == "none" else f"{self.base}-{self.kind}"

    @property
    def base_label(self) -> str:
        """The base, as it is called in print."""
        return OPTIMIZERS[self.base].label

    @property
    def label(self) -> str:
        """What it is called in print."""
        return f"{self.base_label}, {WORDS[self.kind]}"

    @property
    def proximal(self) -> bool:
        """Whether it makes exact zeros."""
        return self.kind in ("diagonal", "plain")

    def optimizer(
        self, model: nn.Module, cut: Cut, lr: float, regularizer: str, penalty: float
    ) -> Optimizer:
        """The optimizer; a subgradient is not its business but the loss's."""
        base = OPTIMIZERS[self.base].build(model, {"lr": lr})
        if self.kind != "diagonal" and self.kind != "plain":
            return base
        return ProximalOptimizer(
            base,
            regularizer=regularizer,  # type: ignore[arg-type]
            penalty=penalty,
            groups=cut,
            metric=self.kind,
        )


METHODS: Mapping[str, Method] = MappingProxyType(
    {method.name: method for base in BASES for kind in KINDS for method in [Method(base, kind)]}
)


def get_methods(names: Sequence[str] | None) -> tuple[Method, ...]:
    """The methods called ``names``, each base without penalty before the first of its methods.

    >>> [method.name for method in get_methods(["adam-plain"])]
    ['adam', 'adam-plain']

    Raises:
        ConfigError: a name is unknown or comes twice, or none has a penalty.
    """
    if names is None:
        names = [each.name for each in METHODS.values() if each.base in DEFAULT_BASES]
    for name in names:
        if name not in METHODS:
            raise ConfigError(f"unknown method {name!r}; {hint(name, METHODS)}")
    if len(set(names)) < len(names):
        raise ConfigError(f"a method is named twice in {','.join(names)!r}")
    chosen = [METHODS[name] for name in names]
    if all(each.kind == "none" for each in chosen):
        raise ConfigError("no method with a penalty is named; adamw-diagonal is one")
    with_bases = (each for method in chosen for each in (Method(method.base, "none"), method))
    return tuple(dict.fromkeys(with_bases))
