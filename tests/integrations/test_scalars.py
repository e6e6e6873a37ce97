"""Reports as flat numbers, from whatever a trainer made of the optimizer."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from programs import expected

import gradmem
import gradmem.integrations
from gradmem.integrations.scalars import MOST_SCOPES, has_memory, memory_scalars, report_of
from gradmem.proximal import ProximalOptimizer

ROOM = Path(gradmem.integrations.__file__).parent


def weights(count: int = 2) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(3)) for _ in range(count)]


def trained(optimizer, steps: int = 7):
    """Steps with norms that are told apart."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(steps):
        for i, p in enumerate(params):
            p.grad = torch.full_like(p, (step * 5 % 7) + i + 1)
        optimizer.step()
    return optimizer


def test_one_scope_says_what_the_report_says() -> None:
    optimizer = trained(gradmem.Adam_C(weights(), capacity=4, decay=0.9))
    found = memory_scalars(optimizer)
    assert found == {f"memory/{k}": v for k, v in expected(optimizer.memory_report()).items()}
    assert all(type(value) is float for value in found.values())
    assert found["memory/norm_min"] < found["memory/norm_max"]
    assert found["memory/age_mean"] < found["memory/age_max"]


def test_a_report_and_a_prefix_do_as_well() -> None:
    optimizer = trained(gradmem.SGD_C(weights(), lr=0.1, capacity=2))
    found = memory_scalars(optimizer.memory_report(), prefix="train/m")
    assert {name.removeprefix("train/m/") for name in found} == set(
        expected(optimizer.memory_report())
    )


def test_what_is_not_there_yet_is_left_out() -> None:
    found = memory_scalars(gradmem.Adam_C(weights(), capacity=4))
    assert found == {
        "memory/occupied": 0,
        "memory/oldest_used": 0,
        "memory/total_weight": 1,
        "memory/scopes": 1,
        "memory/bytes": 0,
    }


def test_several_scopes_have_their_names() -> None:
    first, second = weights()
    groups = [{"params": [first]}, {"params": [second], "capacity": 2, "scope": "tensor"}]
    optimizer = trained(gradmem.Adam_C(groups, capacity=4, scope="group"))
    found = memory_scalars(optimizer)
    assert found["memory/group_0/occupied"] == 4
    assert found["memory/group_1_tensor_0/occupied"] == 2
    assert found["memory/scopes"] == 2
    assert found["memory/bytes"] == optimizer.memory_report().bytes
    assert "memory/occupied" not in found


@pytest.mark.parametrize("count", [MOST_SCOPES, MOST_SCOPES + 1])
def test_many_scopes_are_summed_up(count: int) -> None:
    params = weights(count)
    optimizer = trained(gradmem.Adam_C(params, capacity=4, scope="tensor"))
    found, scopes = memory_scalars(optimizer), optimizer.memory_report().scopes
    assert ("memory/norm_max/mean" in found) == (count > MOST_SCOPES)
    if count > MOST_SCOPES:
        largest = [max(scope.norms) for scope in scopes]
        assert found["memory/norm_max/min"] == min(largest)
        assert found["memory/norm_max/max"] == max(largest)
        assert found["memory/norm_max/mean"] == pytest.approx(sum(largest) / count)
        assert len(found) == 3 * 8 + 2


def test_sums_are_over_the_scopes_that_have_the_number() -> None:
    params = weights(MOST_SCOPES + 4)
    optimizer = gradmem.Adam_C(params, capacity=4, scope="tensor")
    params[0].grad = torch.ones(3)
    optimizer.step()
    found = memory_scalars(optimizer)
    assert found["memory/occupied/max"] == 1
    assert found["memory/occupied/mean"] == 1 / len(params)
    assert found["memory/age_max/min"] == found["memory/age_max/mean"] == 1


class Wrapper:
    def __init__(self, name: str, inner: object) -> None:
        setattr(self, name, inner)


@pytest.mark.parametrize(
    "make",
    [
        lambda params: gradmem.Adam_C(params, capacity=2),
        lambda params: gradmem.Adam_CM(params, capacity=2),
        lambda params: gradmem.MemoryAugmented(torch.optim.RAdam(params), capacity=2),
        lambda params: ProximalOptimizer(gradmem.Adam_C(params, capacity=2), penalty=0.1),
    ],
)
@pytest.mark.parametrize("name", ["optimizer", "optim", "_optimizer"])
def test_wrappers_are_looked_through(make, name: str) -> None:
    optimizer = trained(make(weights()))
    wrapped = Wrapper("optimizer", Wrapper(name, optimizer))
    assert has_memory(wrapped)
    assert report_of(wrapped) == report_of(optimizer)
    assert report_of(wrapped).scopes[0].occupied == 2


def test_a_memory_that_is_switched_off_is_no_error() -> None:
    optimizer = gradmem.Adam_C(weights(), capacity=0)
    assert memory_scalars(optimizer) == {"memory/scopes": 0, "memory/bytes": 0}


def test_an_optimizer_without_a_memory_is_refused() -> None:
    with pytest.raises(gradmem.OptionTypeError) as caught:
        memory_scalars(Wrapper("optimizer", torch.optim.Adam(weights())))
    assert "in Wrapper around Adam;" in str(caught.value)
    assert "gradmem.MemoryAugmented(optimizer)" in str(caught.value)
    assert not has_memory(gradmem.SVRG(weights(), lr=0.1, period=5))


def test_what_is_no_optimizer_is_refused() -> None:
    endless = Wrapper("optimizer", None)
    endless.optimizer = endless
    for nothing in (None, 3, endless):
        with pytest.raises(gradmem.OptionTypeError, match="no memory to report on"):
            report_of(nothing)


def loaded(name: str) -> ModuleType:
    """A module of the room, made anew."""
    spec = importlib.util.spec_from_file_location(f"fresh_{name}", ROOM / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "needed"), [("transformers", "transformers"), ("lightning", "lightning.pytorch")]
)
def test_a_missing_library_is_named_with_its_remedy(monkeypatch, name: str, needed: str) -> None:
    monkeypatch.setitem(sys.modules, needed, Missing(needed, name))
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'gradmem\[{name}\]'"):
        loaded(name)
    monkeypatch.setitem(sys.modules, needed, Missing(needed, "something_else"))
    with pytest.raises(ModuleNotFoundError, match="No module named 'something_else'"):
        loaded(name)


class Missing(ModuleType):
    """A library of which the import of any name fails, as that of a module is not found."""

    def __init__(self, name: str, absent: str) -> None:
        super().__init__(name)
        self.__dict__["_absent"] = absent

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        absent = self.__dict__["_absent"]
        raise ModuleNotFoundError(f"No module named {absent!r}", name=absent)


def test_the_numbers_alone_import_no_trainer() -> None:
    heavy = ["transformers", "accelerate", "lightning", "tensorboard"]
    code = "import sys, gradmem.integrations.scalars, gradmem.integrations.accelerate; "
    code += f"print([name for name in {heavy} if name in sys.modules])"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"
