"""What was found as Markdown, CSV and JSON: pure functions."""

import csv
import io
import json
from dataclasses import asdict
from typing import Any

from gradmem.lab.findings import Table
from gradmem.lab.markup import markdown_table
from gradmem.lab.sparsify import findings
from gradmem.lab.sparsify.findings import Findings, Point
from gradmem.lab.sparsify.methods import METHODS
from gradmem.lab.statistics import Estimate

PICTURE = "figure.svg"
FIGURE_NOTE = (
    "A dot for each penalty: means over the seeds with 95% intervals of score and share. Ringed: "
    "the penalty chosen on the validation split. The line and its band: no penalty. Points far "
    "below are left out."
)
SPEED_NOTE = (
    "The model of the first seed at the chosen penalty, before and after "
    "`gradmem.proximal.shrink`, in evaluation mode on one thread: time of the smaller one over "
    "that of the whole one, median of rounds in which both took turns, with the 95% interval from "
    "order statistics. The outputs of both were compared first."
)


def markdown(found: Findings, command: str) -> str:
    """The page.

    Args:
        found: what it says.
        command: how to repeat it.
    """
    problem = found.plan.problem
    parts = [f"# Zero channels on {problem.name}", f"{problem.title}."]
    parts += ["\n".join(f"- {line}" for line in findings.verdicts(found))]
    parts += [f"**{line}.**".replace("..", ".") for line in findings.warnings(found)]
    parts.append(f"![Test {found.metric.name} against the share of zero channels]({PICTURE})")
    parts.append(FIGURE_NOTE)
    parts += ["## At the chosen penalties", markdown_table(findings.summary_table(found))]
    if found.speeds:
        parts += ["## The smaller model", markdown_table(findings.speed_table(found)), SPEED_NOTE]
    parts += ["## All penalties", markdown_table(findings.point_table(found))]
    if found.tried:
        parts += ["## Learning rates", markdown_table(findings.rate_table(found))]
    parts += ["## How this was made", *findings.method_sentences(found)]
    versions = ", ".join(f"{name} {number}" for name, number in _versions(found).items())
    parts += ["To repeat it:", f"    {command}", f"Versions: {versions}."]
    return "\n\n".join(parts) + "\n"


def _versions(found: Findings) -> dict[str, str]:
    points = next(iter(found.points.values()))
    return {
        name: number
        for name, number in points[0].results[0].setting.versions.items()
        if name in ("gradmem", "torch")
    }


CSV_HEADING = (
    *("method", "base", "kind", "penalty", "lr", "seeds", "diverged", "chosen"),
    *("zero_share", "zero_share_low", "zero_share_high", "exact_share"),
    *("score", "score_low", "score_high", "change", "change_low", "change_high"),
    "validation_change",
)


def as_csv(found: Findings) -> str:
    """A row for each method and penalty; shares and scores as fractions of 1."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_HEADING)
    for row in rows(found).rows:
        writer.writerow(row)
    return buffer.getvalue()


def rows(found: Findings) -> Table:
    """What the CSV holds."""
    return Table(
        CSV_HEADING,
        tuple(_row(found, point) for group in found.points.values() for point in group),
    )


def _row(found: Findings, point: Point) -> tuple[str, ...]:
    method = point.method
    chosen = method.kind != "none" and found.chosen(method) is point
    return (
        *(method.name, method.base, method.kind, f"{point.penalty:g}"),
        *(f"{found.rates[method.base]:g}", str(len(point.results)), str(point.diverged)),
        *(str(int(chosen)), *_numbers(point.share), f"{point.exact.mean:.6f}"),
        *(*_numbers(point.score), *_numbers(point.change), f"{point.validation:.6f}"),
    )


def _numbers(found: Estimate) -> tuple[str, str, str]:
    low, high = ("", "") if found.interval is None else (f"{end:.6f}" for end in found.interval)
    return f"{found.mean:.6f}", low, high


def as_json(found: Findings, command: str) -> str:
    """Settings, learning rates, every run, every point, speeds."""
    plan = found.plan
    return json.dumps(
        {
            "command": command,
            "task": plan.problem.name,
            "examples": plan.problem.examples,
            "partial": plan.problem.partial,
            "regularizer": plan.regularizer,
            "threshold": plan.threshold,
            "within": plan.within,
            "epochs": plan.epochs,
            "batch_size": plan.batch_size,
            "versions": _versions(found),
            "learning_rates": dict(found.rates),
            "tried": [asdict(each) for each in found.tried],
            "points": [_point(found, point) for group in found.points.values() for point in group],
            "speeds": {name: asdict(speed) for name, speed in found.speeds.items()},
            "verdicts": findings.verdicts(found),
        },
        allow_nan=False,
        indent=1,
    )


def _point(found: Findings, point: Point) -> dict[str, Any]:
    method = METHODS[point.method.name]
    return {
        "method": method.name,
        "penalty": point.penalty,
        "chosen": method.kind != "none" and found.chosen(method) is point,
        "share": asdict(point.share),
        "exact": asdict(point.exact),
        "score": asdict(point.score),
        "change": asdict(point.change),
        "validation_change": point.validation,
        "runs": [
            {
                name: value
                for name, value in each.to_json().items()
                if name not in ("setting", "channels")
            }
            | {"seed": each.setting.seed}
            for each in point.results
        ],
    }
