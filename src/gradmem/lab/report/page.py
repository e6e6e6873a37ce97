"""The report as one HTML file: no script, nothing fetched, light and dark, on any width."""

import html

from gradmem.lab import markup
from gradmem.lab.compare import version_sentence
from gradmem.lab.findings import (
    Findings,
    Table,
    memory_sentences,
    score_table,
    settings_table,
    title,
    tracebacks,
)
from gradmem.lab.markup import figures, html_table, note, paragraphs, section
from gradmem.lab.report import panels, sentences, tables, theorem
from gradmem.lab.report.commands import inspect_commands

# identity and heading of every section that may be there, in their order
SECTIONS = {
    "results": "Results",
    "comparisons": "Comparisons",
    "curves": "Curves",
    "theorem": theorem.HEADING,
    "target": "Ranks, and the way to the target",
    "search": "Search",
    "sensitivity": "Sensitivity",
    "memory": "What the memory held",
    "cost": "Cost",
    "settings": "Settings",
    "method": "How this was made",
    "repeat": "How to repeat it",
}


def html_page(found: Findings) -> str:
    """The report."""
    parts = {
        "results": _results(found),
        "comparisons": _comparisons(found),
        "curves": _curves(found),
        "theorem": _theorem(found),
        "target": _target(found),
        "search": _legend(found) + figures(*panels.search_panels(found)),
        "sensitivity": _sensitivity(found),
        "memory": _memory(found),
        "cost": html_table(tables.cost_table(found)) + note(html.escape(sentences.COST_NOTE)),
        "settings": _settings(found),
        "method": paragraphs(sentences.method_sentences(found)),
        "repeat": _repeat(found),
    }
    shown = {name: content for name, content in parts.items() if content}
    body = [_verdict(found), _warnings(found), _contents(tuple(shown))]
    body += [section(name, SECTIONS[name], content) for name, content in shown.items()]
    return markup.document(
        title=html.escape(title(found)),
        subtitle=html.escape(sentences.size(found)),
        body="\n".join(part for part in body if part),
    )


def _verdict(found: Findings) -> str:
    sure, unsure = sentences.concluded(found), sentences.not_concluded(found)
    return (
        '<section class="verdict" id="verdict">'
        f"{paragraphs([sure], '<strong>', '</strong>')}{paragraphs([unsure])}</section>"
    )


def _warnings(found: Findings) -> str:
    lines = "".join(f'<p class="warning">{html.escape(line)}.</p>' for line in found.warnings)
    details = "".join(
        f"<details><summary>{html.escape(whose)}</summary>{markup.code(text)}</details>"
        for whose, text in tracebacks(found).items()
    )
    return f'<div id="warnings">{lines}{details}</div>' if lines or details else ""


def _contents(names: tuple[str, ...]) -> str:
    links = "".join(f'<a href="#{name}">{SECTIONS[name]}</a>' for name in names)
    return f"<nav>{links}</nav>"


def _results(found: Findings) -> str:
    return html_table(score_table(found)) + note(html.escape(sentences.SCORES_NOTE))


def _comparisons(found: Findings) -> str:
    if not found.differences:
        return ""
    return (
        html_table(tables.comparison_table(found), text_columns=(1,))
        + note(html.escape(f"{sentences.tally(found)} {sentences.comparison_note(found)}"))
        + figures(*panels.difference_panels(found))
        + _in_words(found)
    )


def _in_words(found: Findings) -> str:
    """Every pair in a sentence, where the verdict is not one already."""
    if len(found.differences) < 2:
        return ""
    return f"<details><summary>In words</summary>{paragraphs(found.verdicts)}</details>"


def _curves(found: Findings) -> str:
    return _legend(found) + figures(*panels.curve_panels(found))


def _theorem(found: Findings) -> str:
    said = theorem.sentences(found)
    return _legend(found) + figures(*theorem.panels(found)) + paragraphs(said) if said else ""


def _legend(found: Findings) -> str:
    return f'<p class="legend">{panels.legend(found)}</p>'


def _target(found: Findings) -> str:
    shown = panels.profile_panels(found)
    nobody = "" if shown else paragraphs(["No run reached the target."])
    return (
        html_table(tables.standing_table(found))
        + note(html.escape(sentences.STANDING_NOTE))
        + nobody
        + figures(*shown)
    )


def _sensitivity(found: Findings) -> str:
    table = tables.sensitivity_table(found)
    if not table.rows:
        return ""
    return (
        figures(*panels.sensitivity_panels(found))
        + _folded("Every option searched", table)
        + note(html.escape(sentences.SENSITIVITY_NOTE))
    )


def _folded(summary: str, table: Table) -> str:
    inside = html_table(table, text_columns=(1, 2))
    return f"<details><summary>{html.escape(summary)}</summary>{inside}</details>"


def _memory(found: Findings) -> str:
    shown, said = panels.memory_panels(found), memory_sentences(found)
    if not shown and not said:
        return ""
    return paragraphs(said) + figures(*shown) + _how_to_record(found)


def _how_to_record(found: Findings) -> str:
    """How to see what lay there by step, where nobody recorded it."""
    commands = inspect_commands(found)
    if found.origin.records or not commands:
        return ""
    summary = "To see it step by step"
    put = "Each writes a records.jsonl; in this report's folder it becomes a map here."
    return (
        f"<details><summary>{summary}</summary>{markup.code(commands)}"
        f"{note(html.escape(put))}</details>"
    )


def _settings(found: Findings) -> str:
    return html_table(settings_table(found), text_columns=(1,)) + note(
        markup.marked(sentences.SETTINGS_NOTE)
    )


def _repeat(found: Findings) -> str:
    versions = paragraphs([version_sentence(found.comparison.results)])
    if found.origin.toml is None:
        return paragraphs([sentences.NO_CONFIG]) + versions
    return (
        paragraphs([sentences.REPEAT_NOTE])
        + markup.code(sentences.REPEAT)
        + paragraphs(["config.toml:"])
        + markup.code(found.origin.toml.strip())
        + versions
    )
