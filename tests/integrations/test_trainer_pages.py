"""The pages on trainers show lines of the examples, and options that those have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from programs import EXAMPLES, example

DOCS = EXAMPLES.parent / "docs"
PAGES = {
    "transformers": "transformers_trainer",
    "accelerate": "accelerate_loop",
    "lightning": "lightning_trainer",
}


def stripped(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


@pytest.mark.parametrize(("page", "program"), PAGES.items())
def test_what_a_page_shows_is_in_its_example(page: str, program: str) -> None:
    shown = re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)
    lines = stripped((EXAMPLES / f"{program}.py").read_text())
    assert len(shown) >= 3
    for block in map(stripped, shown):
        starts = [i for i in range(len(lines)) if lines[i : i + len(block)] == block]
        assert starts, "\n".join(block)


@pytest.mark.parametrize(("page", "program"), PAGES.items())
def test_the_commands_of_pages_and_examples_are_understood(page: str, program: str) -> None:
    module = example(program)
    text = (DOCS / f"{page}.md").read_text() + module.__doc__
    commands = re.findall(rf"{program}\.py((?: --[\w-]+(?: [\w/]+)?)+)", text)
    assert len(commands) >= 2
    for command in commands:
        assert module.parsed(command.split()).folder.parts[0] == "runs"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (DOCS / f"{page}.md").read_text())
    assert [link for link in links if not (DOCS / Path(link)).exists()] == []
