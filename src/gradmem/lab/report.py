"""The findings as pages: a self-contained HTML file, Markdown, CSV, a picture. Pure functions."""

import csv
import html
import io

from gradmem.lab import figures
from gradmem.lab.findings import (
    SETTINGS_NOTE,
    Findings,
    memory_sentences,
    method_sentences,
    score_table,
    settings_table,
    title,
)
from gradmem.lab.markup import figure, html_table, markdown_table, page, paragraphs
from gradmem.lab.score import caveat

CSV_HEADING = (
    "optimizer",
    "seed",
    "status",
    "test_score",
    "validation_score",
    "validation_loss",
    "best_epoch",
    "steps_to_target",
    "seconds_per_step",
    "state_bytes",
)


def html_page(found: Findings) -> str:
    """The report as one file: no script, nothing fetched, light and dark."""
    plan = found.comparison.plan
    memory = memory_sentences(found)
    return page(
        title=html.escape(title(found)),
        subtitle=html.escape(
            f"{plan.task.title} · {plan.trials} tuning trials and {plan.seeds} fresh seeds each"
        ),
        verdict=paragraphs(found.verdicts, "<strong>", "</strong>")
        + paragraphs([caveat(found.comparison)]),
        warnings="".join(f'<p class="warning">{html.escape(line)}.</p>' for line in found.warnings),
        scores=html_table(score_table(found)),
        scores_note="Mean ± half the width of the 95% interval over the seeds.",
        legend=_legend(found),
        figures=_panels(found),
        settings=html_table(settings_table(found), text_columns=(1,)),
        settings_note=html.escape(SETTINGS_NOTE),
        memory=f"<h2>What the memory held</h2>{paragraphs(memory)}" if memory else "",
        method=paragraphs(method_sentences(found)),
    )


def _legend(found: Findings) -> str:
    return "".join(
        f'<span><i style="border-top: 3px {"solid" if each.spec.base else "dashed"} '
        f'{figures.css_colour(each.spec)}"></i>{html.escape(each.spec.label)}</span>'
        for each in found.scores
    )


def _panels(found: Findings) -> str:
    comparison, metric = found.comparison, found.comparison.plan.task.metric
    panels = [
        (
            "Validation loss",
            figures.learning_curves(comparison, "validation_loss"),
            "Median over the seeds; the band holds the middle four fifths of them.",
        ),
        (
            f"Validation {metric.name}" + (f", {metric.unit}" if metric.unit else ""),
            figures.learning_curves(comparison, "validation_score"),
            "As before; the first climb is cut off.",
        ),
        (
            "Training loss",
            figures.learning_curves(comparison, "train_loss"),
            "Mean over the batches of an epoch, while the weights move.",
        ),
        (
            "Where each optimum lies",
            figures.trials(comparison),
            "Validation loss of every trial, the chosen ones ringed. Bases are hollow, memory "
            "variants filled. Diverged and very bad trials sit on the upper edge.",
        ),
        (
            "What the trials bought",
            figures.search_progress(comparison),
            "Best validation loss after so many trials, the median over their orders. A line that "
            "still falls on the right was not tuned to the end.",
        ),
    ]
    if found.differences:
        seeds = (
            f"Difference in test {metric.name} by seed",
            figures.differences(found.differences, metric),
            "One dot a seed; above them the mean and its 95% interval.",
        )
        panels.insert(3, seeds)
    return "".join(figure(*panel) for panel in panels)


def markdown_page(found: Findings) -> str:
    """The report as text."""
    parts = [f"# {title(found)}", *found.verdicts, caveat(found.comparison)]
    parts += [f"**{line}.**" for line in found.warnings]
    parts += ["## Results", markdown_table(score_table(found))]
    parts += ["## Settings", markdown_table(settings_table(found)), SETTINGS_NOTE]
    if memory := memory_sentences(found):
        parts += ["## What the memory held", *memory]
    parts += ["## How this was made", *method_sentences(found)]
    return "\n\n".join(parts) + "\n"


def picture(found: Findings) -> str:
    """Curves and differences as one SVG file, for a page of one's own."""
    return figures.overview(found.comparison, found.differences)


def csv_page(found: Findings) -> str:
    """One line per evaluation run."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_HEADING)
    for each in found.comparison.results:
        for run in each.runs:
            writer.writerow(
                (
                    run.config.optimizer,
                    run.config.seed,
                    run.status,
                    run.test_score,
                    run.validation_score,
                    run.validation_loss,
                    run.best_epoch,
                    run.steps_to_target,
                    run.seconds_per_step,
                    run.state_bytes,
                )
            )
    return buffer.getvalue()
