"""The docstrings that are put together from shared paragraphs read whole, and say everything."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from typing import get_args

import pytest

import gradmem
from gradmem.memory.options import AggregateName, PolicyName
from gradmem.optim.documentation import PARAGRAPHS, documented
from gradmem.registry import optimizer_class

each_class = pytest.mark.parametrize("cls", [optimizer_class(n) for n in gradmem.names()])


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


@each_class
def test_it_reads_whole(cls: type) -> None:
    text = inspect.getdoc(cls)
    assert text is not None
    assert not re.search(r"[{}]", text)
    lines = text.splitlines()
    sections = ("Args:", "State ", "Bytes ", "Raises:", "Numerics:", "Example:")
    for section in (*sections, "Reference: "):
        (line,) = (i for i, line in enumerate(lines) if line.startswith(section))
        assert lines[line - 1] == ""
    # Nothing was indented wrongly: text, items, what goes on, and code.
    assert {len(line) - len(line.lstrip()) for line in lines} == {0, 4, 8}
    assert max(map(len, lines)) <= 100


@each_class
def test_every_option_is_described(cls: type) -> None:
    text = inspect.getdoc(cls) or ""
    described = words(text[text.index("Args:") : text.index("State ")])
    assert set(inspect.signature(cls).parameters) <= described


@each_class
def test_every_policy_and_aggregate_is_described(cls: type) -> None:
    text = inspect.getdoc(cls) or ""
    named = set(re.findall(r'"(\w+)"', text[text.index("Args:") : text.index("State ")]))
    assert set(get_args(PolicyName) + get_args(AggregateName)) <= named


@each_class
def test_it_names_its_own_base(cls: type) -> None:
    bases = [b for b in cls.__mro__ if b.__module__.startswith("torch.") or b is gradmem.AggMo]
    base = bases[0].__name__
    text = " ".join((inspect.getdoc(cls) or "").split())
    assert text.count(f"0 gives exactly {base}.") == 2  # capacity and kappa
    assert f"4 (capacity + 1) beside {base}'s " in text


def test_every_paragraph_is_in_use() -> None:
    source = "".join(inspect.getsource(optimizer_class(name)) for name in gradmem.names())
    assert set(re.findall(r"^ *\{(\w+)\}$", source, re.MULTILINE)) == set(PARAGRAPHS)


def test_an_unknown_placeholder_is_refused() -> None:
    with pytest.raises(KeyError, match="memory_optoins"):

        @documented(base="SGD", base_bytes="0")
        class Misspelt:
            """Some text.

            {memory_optoins}
            """


def test_it_works_without_docstrings() -> None:
    code = "import gradmem; print(gradmem.Adam_C.__doc__, gradmem.Adam_C.__name__)"
    command = [sys.executable, "-OO", "-c", code]
    out = subprocess.run(command, check=True, capture_output=True, text=True)
    assert out.stdout.split() == ["None", "Adam_C"]
