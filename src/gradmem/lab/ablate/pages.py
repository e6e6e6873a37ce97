"""The findings as pages: a self-contained HTML file, Markdown, CSV, a picture. Pure functions."""

import csv
import html
import io
import json
from typing import Any

from gradmem.lab import markup
from gradmem.lab.ablate import figures, findings, tables
from gradmem.lab.ablate.axis import show
from gradmem.lab.ablate.findings import Findings, edges
from gradmem.lab.ablate.plan import Cell
from gradmem.lab.compare import FIRST_EVALUATION_SEED, Evaluated, version_sentence
from gradmem.lab.drawing import panel, picture, slim
from gradmem.lab.findings import Table

PICTURE = "figure.svg"
MOST_DRAWN = 3  # panels of the picture
CELLS_NOTE = (
    "Mean ± half the width of the 95% interval over the seeds; the difference is paired by seed, "
    "its interval and the word beside it corrected for the number of cells. A learning rate with a "
    "star lies at the edge of what was searched."
)
TESTS_NOTE = (
    "The interval is a percentile bootstrap over the seeds, widened as their number asks for, and "
    "Student's where they are too few for one; all of them hold together (Bonferroni). The "
    "corrected p (Holm) is that of Welch's test, or of Wilcoxon's where the scores do not vary or "
    "are infinite. Better or worse needs a corrected p below .05 and an interval without zero."
)
CONTROL_NOTE = (
    "The batch is (C + 1) times as large, at equal examples (fewer steps) or equal steps (more "
    "examples, and more epochs of which the best is taken)."
)
REPEAT = "gradmem ablate --config config.toml --out repeated"


def as_html(found: Findings) -> str:
    """The report: no script, nothing fetched, light and dark."""
    first, *others = findings.verdicts(found)
    verdict = (
        '<section class="verdict" id="verdict">'
        + markup.paragraphs([first], "<strong>", "</strong>")
        + markup.paragraphs([*others, findings.caveat(found)])
        + "</section>"
    )
    warned = "".join(
        f'<p class="warning">{html.escape(line)}.</p>' for line in findings.warnings(found)
    )
    body = [verdict, f'<div id="warnings">{warned}</div>' if warned else ""]
    body += [markup.section(name.lower(), name, *parts) for name, parts in _sections(found)]
    return markup.document(
        title=html.escape(findings.title(found)),
        subtitle=html.escape(findings.subtitle(found)),
        body="\n".join(part for part in body if part),
    )


def _sections(found: Findings) -> list[tuple[str, list[str]]]:
    drawn = [
        markup.figure(heading[0].upper() + heading[1:], slim(panel(draw)), caption)
        for heading, draw, caption in figures.panels(found)
    ]
    shown: list[tuple[str, list[str]]] = [("Figures", [markup.figures(*drawn)])]
    cells = tables.cell_table(found)
    drawn_all = len(found.ablation.axes) > 1  # the maps have every number
    table = _folded("Every cell", cells) if drawn_all else markup.html_table(cells)
    shown.append(("Results", [table, _small(CELLS_NOTE)]))
    if found.controls:
        control = markup.html_table(tables.control_table(found))
        shown.append(("Control", [control, _small(CONTROL_NOTE)]))
    shown.append(("Tests", [_folded("Every difference", tables.comparison_table(found))]))
    shown[-1][1].append(_small(TESTS_NOTE))
    settings = markup.html_table(tables.settings_table(found), text_columns=(1,))
    shown.append(("Settings", [settings]))
    shown.append(("Method", [markup.paragraphs(method_sentences(found))]))
    shown.append(("Repeat", _repeat(found)))
    return shown


def _small(text: str) -> str:
    return markup.note(html.escape(text))


def _folded(summary: str, table: Table) -> str:
    return f"<details><summary>{summary}</summary>{markup.html_table(table)}</details>"


def _repeat(found: Findings) -> list[str]:
    said = [markup.paragraphs([version_sentence(found.outcomes.by_name.values())])]
    if found.toml is None:
        return said
    return [markup.code(REPEAT), markup.code(found.toml.strip()), *said]


def as_markdown(found: Findings) -> str:
    """The report as text, with the picture beside it."""
    parts = [
        f"# {markup.markdown_text(findings.title(found))}",
        markup.markdown_text(findings.subtitle(found)) + ".",
        "\n".join(f"- {markup.markdown_text(line)}" for line in findings.verdicts(found)),
        markup.markdown_text(findings.caveat(found)),
        *(f"**{markup.markdown_text(line)}.**" for line in findings.warnings(found)),
        f"![{markup.markdown_text(findings.title(found))}]({PICTURE})",
        *(f"{heading}: {caption}" for heading, _, caption in figures.panels(found)[:MOST_DRAWN]),
    ]
    for heading, table in tables.maps(found):
        parts += [f"## {markup.markdown_text(heading)}", markup.markdown_table(table)]
    parts += ["## Results", markup.markdown_table(tables.cell_table(found)), CELLS_NOTE]
    if found.controls:
        parts += ["## Control", markup.markdown_table(tables.control_table(found)), CONTROL_NOTE]
    parts += ["## Tests", markup.markdown_table(tables.comparison_table(found)), TESTS_NOTE]
    parts += ["## Settings", markup.markdown_table(tables.settings_table(found))]
    parts += ["## Method", *map(markup.markdown_text, method_sentences(found)), "## Repeat"]
    if found.toml is not None:
        parts += [_indented(REPEAT), "config.toml:", _indented(found.toml.strip())]
    parts.append(markup.markdown_text(version_sentence(found.outcomes.by_name.values())))
    return "\n\n".join(parts) + "\n"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def as_svg(found: Findings) -> str:
    """The chief figures in one file, for a page of one's own."""
    shown = figures.panels(found)[:MOST_DRAWN]
    return slim(picture([(heading, draw) for heading, draw, _ in shown]))


def method_sentences(found: Findings) -> list[str]:
    """The protocol, so that the page can be judged by itself."""
    ablation, seeds = found.ablation, found.outcomes.seeds
    plan = ablation.plan
    held = ", ".join(f"{name}={show(value)}" for name, value in ablation.held.items())
    mean = f", the mean over {plan.tuning_seeds} seeds," if plan.tuning_seeds > 1 else ""
    spaces = "; ".join(
        f"{entrant.base.label}: " + ", ".join(map(str, entrant.base.space))
        for entrant in {each.base.name: each for each in ablation.entrants}.values()
    )
    return [
        f"Task: {ablation.task.title}. {plan.epochs} epochs, batches of {plan.examples_a_step}, "
        "constant learning rate, but where a row says otherwise.",
        f"Held fixed: {held}.",
        f"Every base and every cell is tuned afresh in {plan.trials} quasi-random trials, and at "
        f"the same settings of what the base searches ({spaces}): so all have equal trials, and "
        f"equal luck in them. The setting with the lowest validation loss{mean} wins.",
        f"Then fresh seeds {FIRST_EVALUATION_SEED} to {FIRST_EVALUATION_SEED + seeds - 1} at that "
        "setting, the same for all. The test split is read once a run, with the weights of the "
        "epoch of lowest validation loss.",
        "A cell with capacity 0 or kappa 0 is the base, to the bit: it has the base's runs, and is "
        "not counted among the comparisons.",
    ]


# For programs -------------------------------------------------------------------------------------

COLUMNS = (
    *("epochs", "batch_size", "options", "trials", "diverged_trials", "at_edge", "seeds"),
    *("failed", "validation_loss", "test_mean", "test_low", "test_high", "seconds_per_step"),
    *("against", "difference", "difference_low", "difference_high", "p_welch", "p_wilcoxon"),
    *("p_corrected", "comparisons", "outcome"),
)


def as_csv(found: Findings) -> str:
    """A row for each base and each cell; scores as the task gives them, not scaled."""
    axes = [axis.name for axis in found.ablation.axes]
    buffer = io.StringIO()
    columns = ("optimizer", *axes, *COLUMNS)
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
    writer.writeheader()
    for name in found.bases:
        own = found.outcomes.by_name[name]
        at = {axis: show(value) for axis, value in found.base_at(name).items()}
        writer.writerow({"optimizer": own.spec.label, **at, **_numbers(found, own)})
    for cell in found.ablation.cells:
        at = {name: show(value) for name, value in cell.at.items()}
        own = found.evaluated(cell)
        row = {"optimizer": cell.series, **at, **_numbers(found, own), **_pair(found, cell)}
        writer.writerow(row)
    return buffer.getvalue()


def _numbers(found: Findings, each: Evaluated) -> dict[str, Any]:
    scored, first = found.scores[each.spec.name], each.runs[0].config
    low, high = scored.test.interval or ("", "")
    return {
        "epochs": first.epochs,
        "batch_size": first.batch_size,
        "options": json.dumps(each.options),
        "trials": len(each.tuned.trials),
        "diverged_trials": each.tuned.count("diverged"),
        "at_edge": " ".join(edges(each)),
        "seeds": len(each.runs),
        "failed": sum(scored.failed.values()),
        "validation_loss": scored.validation_loss.mean,
        "test_mean": scored.test.mean,
        "test_low": low,
        "test_high": high,
        "seconds_per_step": scored.seconds_per_step,
    }


def _pair(found: Findings, cell: Cell) -> dict[str, Any]:
    each = found.difference(cell)
    if each is None:
        return {"outcome": "base"}
    low, high = each.estimate.interval or ("", "")
    return {
        "against": each.base.label,
        "difference": each.estimate.mean,
        "difference_low": low,
        "difference_high": high,
        "p_welch": each.welch,
        "p_wilcoxon": each.wilcoxon,
        "p_corrected": each.p,
        "comparisons": each.pairs,
        "outcome": each.outcome,
    }
