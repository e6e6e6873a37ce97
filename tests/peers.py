"""The optimizers of torch and three other packages, as `MemoryAugmented` is tried with them.

A package is asked for its optimizers, so that none it adds is overlooked. `NEEDS` has those that
want more than the parameters, `REFUSED` those that cannot have a memory and what they say then,
`CAUTION` those that work and had better not. `python tests/peers.py` prints docs/augmented.md's
tables of them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gradmem import MemoryAugmented

# Package and module where its optimizers are.
PACKAGES = {
    "torch": "torch.optim",
    "pytorch_optimizer": "pytorch_optimizer",
    "schedulefree": "schedulefree",
    "bitsandbytes": "bitsandbytes.optim",
}
Make = Callable[[type, nn.Module], Any]


@dataclass(frozen=True)
class Need:
    """What one is given beyond the parameters, in words and in code."""

    words: str
    make: Make | None = None
    distributed: bool = False  # a process group
    package: str | None = None  # one that its own package does not bring
    inside: bool = False  # it is given an optimizer, which is the one to have the memory


@dataclass(frozen=True)
class Refusal:
    """Why one cannot have a memory, and what raises when: it must not go on in silence."""

    why: str
    at: str  # "wrapping", or the first "step"
    error: str  # the exception's name, a regular expression, as is the next
    says: str | None = None
    make: Make | None = None


@dataclass(frozen=True)
class Caution:
    """Why one had better not have a memory, although it works."""

    why: str
    diverges_after: int | None = None  # steps until its loss is thrice that without a memory
    sees_loss: bool = True


@dataclass(frozen=True)
class Peer:
    """One optimizer of one package."""

    package: str
    name: str
    cls: type

    @property
    def id(self) -> str:
        return f"{self.package}-{self.name}"

    @property
    def need(self) -> Need | None:
        return NEEDS.get(self.package, {}).get(self.name)

    @property
    def refusal(self) -> Refusal | None:
        return REFUSED.get(self.package, {}).get(self.name)

    @property
    def caution(self) -> Caution | None:
        return CAUTION.get(self.package, {}).get(self.name)

    def make(self, model: nn.Module) -> Any:
        """The optimizer, for the parameters of a model."""
        chosen = self.need or self.refusal
        make = chosen.make if chosen else None
        return (make or given())(self.cls, model)

    def make_with_memory(self, model: nn.Module, **memory: Any) -> tuple[Any, MemoryAugmented]:
        """The optimizer to be stepped, and the one that has the memory."""
        if self.need and self.need.inside:
            augmented = MemoryAugmented(_inner(model), **memory)
            return self.cls(augmented), augmented
        augmented = MemoryAugmented(self.make(model), **memory)
        return augmented, augmented


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def peers(package: str) -> list[Peer]:
    """Everything in a package that has the form of an optimizer, sorted by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what importing it says is not ours to judge
        module = importlib.import_module(PACKAGES[package])
    found = [
        Peer(package, name, cls)
        for name, cls in vars(module).items()
        if isinstance(cls, type) and hasattr(cls, "step") and hasattr(cls, "zero_grad")
        if cls.__module__.split(".")[0] == package and cls is not Optimizer
    ]
    return sorted(found, key=lambda peer: peer.name.lower())


# How they are made --------------------------------------------------------------------------------


def given(*more: Any, **options: Any) -> Make:
    return lambda cls, model: cls(model.parameters(), *more, **options)


def in_group(**options: Any) -> Make:
    return lambda cls, model: cls([{"params": list(model.parameters()), **options}])


def matrices(cls: type, model: nn.Module) -> Any:
    return cls([p for p in model.parameters() if p.dim() == 2])


def from_model(cls: type, model: nn.Module) -> Any:
    return cls(model)


def in_two_groups(cls: type, model: nn.Module) -> Any:
    by_muon: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for p in model.parameters():
        by_muon[p.dim() == 2].append(p)
    return cls([{"params": params, "use_muon": use} for use, params in by_muon.items()])


def without_device(cls: type, model: nn.Module) -> Any:
    return cls.__new__(cls)  # making one takes a GPU; of what kind it is can be seen without


def around_another(cls: type, model: nn.Module) -> Any:
    return cls(_inner(model))


def _inner(model: nn.Module) -> Optimizer:
    return AdamW(model.parameters(), lr=0.01)


def _gsam(cls: type, model: nn.Module) -> Any:
    from pytorch_optimizer import ProportionScheduler

    base = SGD(model.parameters(), lr=0.1)
    rho = ProportionScheduler(LambdaLR(base, lambda t: 1.0), 1.0, 0.0, 1.0, 0.0)
    return cls(model.parameters(), base, model, rho)


def _each(names: str, value: Any) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


# What some need -----------------------------------------------------------------------------------

_MUON = Need("groups that say `use_muon`", in_two_groups)
_RANK = {"rank": 4, "update_proj_gap": 5, "scale": 1.0, "projection_type": "std"}
_PROJECTED = "`rank` and its companions in the group; without them it is AdamW"
_INSIDE = Need(
    "the memory inside: `Lookahead(MemoryAugmented(optimizer))`", around_another, inside=True
)
_MATRICES = Need("two-dimensional parameters alone", matrices)
_RATE = {"lr": 0.01, "momentum": 0.9}
_8BIT = "`min_8bit_size=0`, or tensors of at least 4096 elements: smaller ones have 32 bits"
_PAGED = f"{_8BIT}; an accelerator, or it is the one without Paged"

NEEDS: Mapping[str, Mapping[str, Need]] = {
    "torch": {"Muon": _MATRICES},
    "pytorch_optimizer": {
        **_each("AdaGO AdaMuon Muon MuonClip NorMuon", _MUON),
        **_each("Conda Fira GaLore", Need(_PROJECTED, in_group(**_RANK))),
        **_each("Lookahead Magma OrthoGrad PCGrad ScheduleFreeWrapper TRAC", _INSIDE),
        "AdamMini": Need(
            "the model instead of its parameters", lambda cls, model: cls(model, lr=0.01)
        ),
        "APOLLO": Need(_PROJECTED, in_group(**_RANK, scale_type="tensor")),
        "DeMo": Need("a process group and the package einops", None, True, "einops"),
        "DistributedMuon": Need("a process group", in_two_groups, distributed=True),
        "Ranger21": Need("`num_iterations`", given(num_iterations=100)),
        "SpectralSphere": _MATRICES,
    },
    "bitsandbytes": {
        **_each("LARS LARS32bit PytorchLARS SGD SGD32bit", Need("`momentum`", given(**_RATE))),
        **_each(
            "Adagrad8bit Adam8bit AdamW8bit AdEMAMix8bit LAMB8bit Lion8bit RMSprop8bit",
            Need(_8BIT, given(min_8bit_size=0)),
        ),
        **_each("LARS8bit SGD8bit", Need(f"`momentum`; {_8BIT}", given(min_8bit_size=0, **_RATE))),
        **_each(
            "PagedAdam8bit PagedAdamW8bit PagedAdEMAMix8bit PagedLion8bit",
            Need(_PAGED, given(min_8bit_size=0)),
        ),
    },
}

# Those that cannot have a memory ------------------------------------------------------------------

_TWICE = "evaluates the model itself, several times a step and at other points"
_GRAPH = "differentiates the gradient (`create_graph=True`), and an aggregate has no graph"
_SAM = Refusal(_TWICE, "step", "NoClosureError", "requires closure", given(SGD, lr=0.1))
_CLOSURE = Refusal(
    "evaluates the model itself, at a point it moves the parameters to",
    "wrapping",
    "OptionError",
    "needs closure",
)
_NONE = "is no `torch.optim.Optimizer`"
_BROKEN = "its own step fails for matrices on the CPU, without a memory too"

REFUSED: Mapping[str, Mapping[str, Refusal]] = {
    "torch": {
        "LBFGS": Refusal(_TWICE, "wrapping", "OptionError", "needs closure"),
        "SparseAdam": Refusal(
            "takes sparse gradients alone, and a memory dense ones",
            "step",
            "RuntimeError",
            "does not support dense gradients",
        ),
    },
    "pytorch_optimizer": {
        **_each(
            "AdaHessian SophiaH", Refusal(_GRAPH, "step", "RuntimeError", "does not require grad")
        ),
        **_each("FriendlySAM LookSAM SAM", _SAM),
        **_each(
            "AdaLOMO LOMO",
            Refusal(
                "updates the parameters during the backward pass; its step does nothing",
                "step",
                "NotImplementedError",
                make=from_model,
            ),
        ),
        "AliG": Refusal(
            "sizes its step by the loss, and the closure is not handed on",
            "step",
            "NoClosureError",
            "requires closure",
        ),
        "BSAM": Refusal(_TWICE, "step", "NoClosureError", "closure", given(num_data=1797)),
        "CPUOffloadOptimizer": Refusal(
            _NONE, "wrapping", "OptionTypeError", "must be a torch.optim.Optimizer", without_device
        ),
        "GSAM": Refusal(_TWICE, "step", "TypeError", "not callable", _gsam),
        "SafeFP16Optimizer": Refusal(
            "has no `param_groups`",
            "wrapping",
            "AttributeError|OptionTypeError",
            "param_groups",
            around_another,
        ),
        "WSAM": Refusal(
            _TWICE,
            "step",
            "NoClosureError",
            "requires closure",
            lambda cls, model: cls(model, model.parameters(), SGD, lr=0.1),
        ),
    },
    "schedulefree": {
        **_each(
            "AdamWScheduleFreeClosure RAdamScheduleFreeClosure SGDScheduleFreeClosure", _CLOSURE
        ),
        **_each(
            "ScheduleFreeWrapper ScheduleFreeWrapperReference",
            Refusal(
                _NONE,
                "wrapping",
                "OptionTypeError",
                "must be a torch.optim.Optimizer",
                around_another,
            ),
        ),
    },
    "bitsandbytes": _each(
        "AdEMAMix32bit PagedAdEMAMix32bit",
        Refusal(_BROKEN, "step", "RuntimeError", "broadcast shape"),
    ),
}

# Those that had better not ------------------------------------------------------------------------

_FREE = (
    "estimates its step size from products of the gradient with the way come so far, which an "
    "aggregate of past gradients inflates: the loss diverged"
)
_BLIND = (
    "scales its steps by the loss of the closure, which is not handed on: it runs as it does "
    "without a closure"
)
_SIGNS = (
    "compares the signs of one gradient with the last one's, and a mean of several turns late: "
    "the loss diverged"
)

CAUTION: Mapping[str, Mapping[str, Caution]] = {
    "torch": {"Rprop": Caution(_SIGNS, diverges_after=60)},
    "pytorch_optimizer": {
        **_each("DAdaptAdam DAdaptAdan DAdaptLion DAdaptSGD Prodigy", Caution(_FREE, 60)),
        "DAdaptAdaGrad": Caution(_FREE, 200),
        **_each("EmoFact EmoLynx EmoNavi", Caution(_BLIND, sees_loss=False)),
    },
}

# The tables ---------------------------------------------------------------------------------------


def tables(packages: Iterable[str] = PACKAGES) -> str:
    """docs/augmented.md from the first of its tables on, every row beginning with the package."""
    known = [peer for package in packages for peer in peers(package)]
    working = [peer for peer in known if peer.refusal is None]
    parts = [
        "## Those that work\n",
        _table("package", "optimizers", _counted(working)),
        "Some of them need what they need without a memory too:\n",
        _table("optimizer", "needs", _by_text(working, lambda p: p.need and p.need.words)),
        "## Those that work and had better not\n",
        _table("optimizer", "why", _by_text(working, lambda p: p.caution and p.caution.why)),
        "## Those that cannot\n",
        _table("optimizer", "why", _by_text(known, lambda p: p.refusal and p.refusal.why)),
    ]
    return "\n".join(parts)


def _table(left: str, right: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {left} | {right} |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]
    return "\n".join(lines) + "\n"


def _counted(working: Iterable[Peer]) -> Iterator[tuple[str, str]]:
    by_package: dict[str, list[str]] = {}
    for peer in working:
        by_package.setdefault(peer.package, []).append(peer.name)
    for package, names in by_package.items():
        version = importlib.metadata.version(package).split("+")[0]
        yield f"{package} {version} ({len(names)})", ", ".join(names)


def _by_text(
    chosen: Iterable[Peer], text_of: Callable[[Peer], str | None]
) -> Iterator[tuple[str, str]]:
    """One row for each package and text."""
    rows: dict[tuple[str, str], list[str]] = {}
    for peer in chosen:
        if text := text_of(peer):
            rows.setdefault((peer.package, text), []).append(peer.name)
    for (package, text), names in rows.items():
        yield f"{package}: {', '.join(names)}", text


if __name__ == "__main__":
    sys.stdout.write(tables())
