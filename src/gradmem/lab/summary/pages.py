"""The findings as pages: a self-contained HTML file, Markdown, CSV, a picture. Pure functions."""

import csv
import html
import io
from collections.abc import Iterator

from gradmem.lab import markup
from gradmem.lab.drawing import panel, picture, slim
from gradmem.lab.findings import Table
from gradmem.lab.summary import figures, findings
from gradmem.lab.summary.findings import Findings

PICTURE = "figure.svg"
ROW = 0.42  # inches a kind of pair takes in its figure
COLUMNS = (
    *("folder", "task", "optimizer", "against", "test_mean", "base_mean", "difference"),
    *("difference_low", "difference_high", "outcome", "improves"),
)


def as_html(found: Findings) -> str:
    """The report: no script, nothing fetched, light and dark."""
    first, *others = findings.verdicts(found)
    verdict = (
        '<section class="verdict" id="verdict">'
        + markup.paragraphs([first], "<strong>", "</strong>")
        + markup.paragraphs(others)
        + "</section>"
    )
    warned = "".join(
        f'<p class="warning">{html.escape(line)}.</p>' for line in findings.warnings(found)
    )
    drawn = (
        markup.figure(heading[0].upper() + heading[1:], slim(panel(draw, _height(found))), caption)
        for heading, draw, caption in figures.panels(found)
    )
    body = [verdict, f'<div id="warnings">{warned}</div>' if warned else ""]
    body.append(markup.section("figures", "Figures", markup.figures(*drawn)))
    for i, (heading, table, small) in enumerate(_tables(found), start=1):
        shown = markup.html_table(table, text_columns=(1,) if heading == "Tasks" else ())
        body.append(markup.section(f"table-{i}", heading, shown, markup.note(html.escape(small))))
    body.append(markup.section("method", "Method", markup.paragraphs(findings.METHOD)))
    return markup.document(
        title=html.escape(findings.title(found)), subtitle="", body="\n".join(filter(None, body))
    )


def _height(found: Findings) -> float:
    return max(3.3, 1.0 + ROW * len(found.tallies))


def as_markdown(found: Findings) -> str:
    """The report as text, with the picture beside it."""
    parts = [
        f"# {markup.markdown_text(findings.title(found))}",
        "\n".join(f"- {markup.markdown_text(line)}" for line in findings.verdicts(found)),
        *(f"**{markup.markdown_text(line)}.**" for line in findings.warnings(found)),
        f"![{markup.markdown_text(findings.title(found))}]({PICTURE})",
        *(
            f"{heading[0].upper()}{heading[1:]}: {caption}"
            for heading, _, caption in figures.panels(found)
        ),
    ]
    for heading, table, small in _tables(found):
        parts += [f"## {heading}", markup.markdown_table(table), *filter(None, [small])]
    return "\n\n".join([*parts, "## Method", *findings.METHOD]) + "\n"


def _tables(found: Findings) -> Iterator[tuple[str, Table, str]]:
    """Heading, table and small print of each."""
    if found.tallies:
        yield "Pairs", findings.tally_table(found), findings.PAIRS_NOTE
    for field in found.fields:
        heading = f"Ranks, {len(field.entries)} optimizers on {len(field.tasks)} tasks"
        met = ", ".join(each.name for each in field.tasks)
        yield heading, findings.field_table(field), f"On {met}. {findings.FIELD_NOTE}"
    if found.tallies:
        yield "Every pair", findings.pair_table(found), ""
    yield "Tasks", findings.task_table(found), ""


def as_svg(found: Findings) -> str:
    """The figures in one file, for a page of one's own."""
    return slim(picture([(heading, draw) for heading, draw, _ in figures.panels(found)]))


def as_csv(found: Findings) -> str:
    """A row for each pair; scores as the task gives them, not scaled."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for each in found.compared:
        for pair in each.pairs:
            low, high = pair.interval or ("", "")
            writer.writerow(
                {
                    "folder": each.name,
                    "task": each.task.name,
                    "optimizer": pair.variant.name,
                    "against": pair.base.name,
                    "test_mean": each.standings[pair.variant.name].test,
                    "base_mean": each.standings[pair.base.name].test,
                    "difference": pair.difference,
                    "difference_low": low,
                    "difference_high": high,
                    "outcome": pair.outcome,
                    "improves": int(each.improvement(pair.difference) > 0),
                }
            )
    return buffer.getvalue()
