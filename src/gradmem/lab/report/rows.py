"""The report as rows, for programs: every run, and every optimizer."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

from gradmem.lab.findings import Findings
from gradmem.lab.run import RunResult
from gradmem.lab.score import Difference, Score

RUN_COLUMNS = (
    "optimizer",
    "purpose",
    "seed",
    "status",
    "test_score",
    "validation_score",
    "validation_loss",
    "best_epoch",
    "steps_to_target",
    "seconds_to_target",
    "seconds_per_step",
    "state_bytes",
    "reason",
    "options",
)


def csv_page(found: Findings) -> str:
    """One line per run: those of the evaluation first, then the trials."""
    results = found.comparison.results
    evaluated = [run for each in results for run in each.runs]
    tried = [run for each in results for trial in each.tuned.trials for run in trial.runs]
    return _written(RUN_COLUMNS, map(_run_row, (*evaluated, *tried)))


def _run_row(run: RunResult) -> dict[str, Any]:
    config = run.config
    own = {name: getattr(run, name) for name in RUN_COLUMNS if hasattr(run, name)}
    return {
        **own,
        "optimizer": config.optimizer,
        "purpose": config.purpose,
        "seed": config.seed,
        "options": json.dumps(config.options),
    }


SUMMARY_COLUMNS = (
    "optimizer",
    "runs",
    "failed",
    "test_mean",
    "test_low",
    "test_high",
    "validation_mean",
    "validation_loss_mean",
    "mean_rank",
    "reached",
    "steps_to_target",
    "seconds_to_target",
    "profile_steps",
    "profile_time",
    "seconds_per_step",
    "state_bytes",
    "against",
    "difference",
    "difference_low",
    "difference_high",
    "p_welch",
    "p_wilcoxon",
    "p_corrected",
    "outcome",
    "options",
)


def summary_csv(found: Findings) -> str:
    """One line per optimizer, with its pair if it is set against another."""
    by_name = {each.variant.name: each for each in found.differences}
    rows = (
        {**_summary_row(each), **_pair_row(by_name.get(each.spec.name))} for each in found.scores
    )
    return _written(SUMMARY_COLUMNS, rows)


def _summary_row(each: Score) -> dict[str, Any]:
    low, high = each.test.interval or (None, None)
    by_steps, by_time = each.areas
    return {
        "optimizer": each.spec.name,
        "runs": len(each.evaluated.runs),
        "failed": sum(each.failed.values()),
        "test_mean": each.test.mean,
        "test_low": low,
        "test_high": high,
        "validation_mean": each.validation.mean,
        "validation_loss_mean": each.validation_loss.mean,
        "mean_rank": each.rank,
        "reached": each.reached,
        "steps_to_target": each.steps_to_target,
        "seconds_to_target": each.seconds_to_target,
        "profile_steps": by_steps,
        "profile_time": by_time,
        "seconds_per_step": each.seconds_per_step,
        "state_bytes": each.state_bytes,
        "options": json.dumps(each.evaluated.options),
    }


def _pair_row(pair: Difference | None) -> dict[str, Any]:
    if pair is None:
        return {}
    low, high = pair.estimate.interval or (None, None)
    return {
        "against": pair.base.name,
        "difference": pair.estimate.mean,
        "difference_low": low,
        "difference_high": high,
        "p_welch": pair.welch,
        "p_wilcoxon": pair.wilcoxon,
        "p_corrected": pair.p,
        "outcome": pair.outcome,
    }


def _written(columns: tuple[str, ...], rows: Iterable[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
