"""The report's figures, each with its heading and caption."""

import html

from gradmem.lab import figures
from gradmem.lab.config import file_name
from gradmem.lab.drawing import CSS_COLOURS, Draw, panel, slim
from gradmem.lab.findings import Findings
from gradmem.lab.markup import figure
from gradmem.lab.memory.figures import map_drawing
from gradmem.lab.sensitivity import Sensitivity, sensitivities

CHIEF = ("capacity", "decay")  # the options of a memory whose sensitivity is drawn


def legend(found: Findings) -> str:
    """A stroke and a name for each optimizer."""
    looks = figures.looks(found.comparison)
    return "".join(
        f"<span>{_stroke(looks[each.spec.name])}{html.escape(each.spec.label)}</span>"
        for each in found.scores
    )


def _stroke(look: figures.Look) -> str:
    gaps = "" if isinstance(look.dashes, str) else " ".join(f"{2 * n:g}" for n in look.dashes[1])
    return (
        '<svg width="36" height="4" aria-hidden="true"><path d="M0 2H36" stroke-width="2.5" '
        f'stroke="{CSS_COLOURS[look.colour]}" stroke-dasharray="{gaps}"/></svg>'
    )


def curve_panels(found: Findings) -> list[str]:
    """Learning curves."""
    metric = found.metric
    band = "; the band holds the middle four fifths of them" * figures.has_bands(found.comparison)
    return [
        _panel(
            "Validation loss",
            figures.curves(found.comparison, "validation_loss"),
            f"Median over the seeds{band}.",
            lines=len(found.scores),
        ),
        _panel(
            f"Validation {metric.name}" + (f", {metric.unit}" if metric.unit else ""),
            figures.curves(found.comparison, "validation_score"),
            "As before; the first climb is cut off.",
            lines=len(found.scores),
        ),
        _panel(
            "Training loss",
            figures.curves(found.comparison, "train_loss"),
            "Mean over the batches of an epoch, while the weights move.",
            lines=len(found.scores),
        ),
    ]


def difference_panels(found: Findings) -> list[str]:
    """Differences by seed, if there are pairs."""
    if not any(each.by_seed for each in found.differences):
        return []
    svg = figures.differences_panel(found.comparison, found.differences)
    heading = f"Difference in test {found.metric.name} by seed"
    caption = "One dot a seed; above them the mean and its interval."
    return [figure(heading, slim(svg), caption)]


def profile_panels(found: Findings) -> list[str]:
    """Performance profiles, if anybody reached the target."""
    if not any(each.reached for each in found.scores):
        return []
    return [
        _panel(
            f"Performance profile, {by}",
            figures.profiles(found.scores, by),
            f"Share of the seeds on which the target was reached within so many times the {by} of "
            "whoever was first there.",
            lines=len(found.scores),
        )
        for by in ("steps", "time")
    ]


def search_panels(found: Findings) -> list[str]:
    """What the trials found, and how many it took."""
    band = " and the middle four fifths" * figures.has_bands(found.comparison)
    return [
        _panel(
            "Where each optimum lies",
            figures.trials(found.comparison),
            "Validation loss of every trial, the chosen ones ringed. Bases are hollow, memory "
            "variants filled. Diverged and very bad trials sit on the upper edge.",
        ),
        _panel(
            "What the trials bought",
            figures.search_progress(found.comparison),
            f"Best validation loss after so many trials, bootstrapped: the median{band}. A line "
            "that still falls on the right was not tuned to the end.",
            lines=len(found.scores),
        ),
    ]


def sensitivity_panels(found: Findings) -> list[str]:
    """Capacity and decay, where they were searched."""
    searched = sensitivities(found.comparison)
    return [
        _sensitivity_panel(found, option, these)
        for option in CHIEF
        if (these := [each for each in searched if each.option == option])
    ]


def _sensitivity_panel(found: Findings, option: str, these: list[Sensitivity]) -> str:
    whose = ", ".join(each.spec.label for each in these)
    return _panel(
        f"Validation loss by {option}",
        figures.sensitivity(found.comparison, these),
        f"Every trial of {whose}, from left to right, by its {option}. Thick: the best; thin: the "
        "median.",
    )


def memory_panels(found: Findings) -> list[str]:
    """What lay in memory: at the end of every run, and by step where that was recorded."""
    shown = []
    if any(run.memory for each in found.comparison.results for run in each.runs):
        shown.append(
            _panel(
                "What lay in memory at the end",
                figures.held_at_end(found.comparison),
                "One column a run, one dot a stored gradient, by its age; the stroke is the "
                "capacity, the oldest age that fifo would hold. Of several scopes, the first.",
            )
        )
    labels = {file_name(each.spec.name): each.spec.label for each in found.comparison.results}
    for name, records in found.origin.records.items():
        shown.append(
            _panel(
                f"What lay in memory, by step: {labels.get(name, name)}",
                map_drawing(records),
                "Ink: share of the gradients of that age that were held. Below the dashed line is "
                "what fifo would hold.",
            )
        )
    return shown


def _panel(heading: str, draw: Draw, caption: str, lines: int = 0) -> str:
    """A figure, higher if it has more lines to name than its usual height has room for."""
    return figure(heading, slim(panel(draw, 3.3 + 0.14 * max(0, lines - 11))), caption)
