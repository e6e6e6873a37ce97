"""The report as text."""

from gradmem.lab.compare import version_sentence
from gradmem.lab.findings import (
    Findings,
    memory_sentences,
    score_table,
    settings_table,
    title,
)
from gradmem.lab.markup import markdown_table, markdown_text
from gradmem.lab.report import sentences, tables, theorem


def markdown_page(found: Findings) -> str:
    """The report, without its figures."""
    parts = [
        f"# {markdown_text(title(found))}",
        markdown_text(sentences.size(found)) + ".",
        f"**{markdown_text(sentences.concluded(found))}**",
        markdown_text(sentences.not_concluded(found)),
        *(f"**{markdown_text(line)}.**" for line in found.warnings),
        "## Results",
        markdown_table(score_table(found)),
        sentences.SCORES_NOTE,
        *_comparisons(found),
        "## Ranks, and the way to the target",
        markdown_table(tables.standing_table(found)),
        sentences.STANDING_NOTE,
        *_theorem(found),
        *_sensitivity(found),
        *_memory(found),
        "## Cost",
        markdown_table(tables.cost_table(found)),
        sentences.COST_NOTE,
        "## Settings",
        markdown_table(settings_table(found)),
        sentences.SETTINGS_NOTE,
        "## How this was made",
        *map(markdown_text, sentences.method_sentences(found)),
        *_repeat(found),
    ]
    return "\n\n".join(parts) + "\n"


def _comparisons(found: Findings) -> list[str]:
    if not found.differences:
        return []
    several = found.verdicts if len(found.differences) > 1 else []
    return [
        "## Comparisons",
        markdown_table(tables.comparison_table(found)),
        f"{sentences.tally(found)} {sentences.comparison_note(found)}".strip(),
        *map(markdown_text, several),
    ]


def _theorem(found: Findings) -> list[str]:
    said = theorem.sentences(found)
    return [f"## {theorem.HEADING}", *map(markdown_text, said)] if said else []


def _sensitivity(found: Findings) -> list[str]:
    table = tables.sensitivity_table(found)
    if not table.rows:
        return []
    return ["## Sensitivity", markdown_table(table), sentences.SENSITIVITY_NOTE]


def _memory(found: Findings) -> list[str]:
    said = memory_sentences(found)
    return ["## What the memory held", *map(markdown_text, said)] if said else []


def _repeat(found: Findings) -> list[str]:
    versions = markdown_text(version_sentence(found.comparison.results))
    if found.origin.toml is None:
        return ["## How to repeat it", sentences.NO_CONFIG, versions]
    return [
        "## How to repeat it",
        sentences.REPEAT_NOTE,
        _indented(sentences.REPEAT),
        "config.toml:",
        _indented(found.origin.toml.strip()),
        versions,
    ]


def _indented(text: str) -> str:
    """As code; unlike a fence, nothing inside can end it."""
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())
