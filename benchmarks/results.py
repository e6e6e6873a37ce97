"""The index of docs/results: every pair of every committed comparison, losses beside wins.

    python benchmarks/results.py > docs/results/README.md

Each folder has the `config.toml` that repeats it (`gradmem compare --config ...`), `summary.csv`
and the report. Numbers are read from `summary.csv`; nothing is computed here.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import tomlkit

from gradmem.lab.optimizers import OPTIMIZERS
from gradmem.lab.tasks import get_task

RESULTS = Path(__file__).parent.parent / "docs" / "results"
HEAD = """# Results

What `gradmem compare` gave, by `python benchmarks/results.py`: each memory variant against its
base, the same number of trials for both, the best setting of each on fresh seeds, test score. A
difference counts (**better**, **worse**) if the 95 % interval, corrected for the number of pairs of
its report, excludes zero and Welch's test, corrected too, is below .05. One thread a run, two
processes on two cores of a shared x86-64 machine, torch 2.13. To repeat one:
`gradmem compare --config docs/results/TASK/config.toml --out again`.

One network and one split a task, few trials: nothing here says what a larger budget would find, and
the differences between tasks are larger than most of those in the table. What single options do, at
every value: [ablations](../ablate.md#what-it-gave-so-far).
"""


def main() -> None:
    lines, outcomes = [], Counter()
    for folder in sorted(path.parent for path in RESULTS.glob("*/summary.csv")):
        config = tomlkit.parse((folder / "config.toml").read_text(encoding="utf-8"))
        metric = get_task(config["task"]).metric
        rows = list(csv.DictReader((folder / "summary.csv").open(encoding="utf-8")))
        score = {row["optimizer"]: float(row["test_mean"]) for row in rows}
        for row in rows:
            if row["against"]:
                outcomes[row["outcome"]] += 1
                lines.append(_line(folder.name, config, metric, row, score))
    counts = f"{outcomes['win']} better, {outcomes['loss']} worse, {outcomes['tie']} undecided"
    print(HEAD)
    print(f"**{sum(outcomes.values())} pairs: {counts}.**\n")
    print("| task | trials, seeds | pair | base | with memory | difference | |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(lines))


def _line(task, config, metric, row, score) -> str:
    word = {"win": "**better**", "loss": "**worse**"}.get(row["outcome"], "")
    low, high = (metric.show_difference(float(row[f"difference_{end}"])) for end in ("low", "high"))
    mean = metric.show_difference(float(row["difference"]))
    name, base = (OPTIMIZERS[row[key]].label for key in ("optimizer", "against"))
    unit = f" {metric.unit}" if metric.unit else ""
    cells = (
        f"[{task}]({task}/report.md)",
        f"{config['trials']}, {row['runs']}",
        f"{name} - {base}",
        f"{metric.show(score[row['against']])}{unit}",
        f"{metric.show(score[row['optimizer']])}{unit}",
        f"{mean} ({low} to {high})",
        word,
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
