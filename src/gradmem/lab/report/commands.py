"""Commands that the report suggests."""

import shlex

from gradmem.lab.compare import Evaluated
from gradmem.lab.findings import Findings


def inspect_commands(found: Findings) -> str:
    """For each memory one command that records it by step, at the setting that was chosen."""
    task = found.comparison.plan.task
    return "\n".join(
        _inspect(task.asked or task.name, each)
        for each in found.comparison.results
        if each.runs and each.runs[0].memory
    )


def _inspect(task: str, each: Evaluated) -> str:
    options = dict(each.options)
    words = ["gradmem", "inspect", task, "--optimizer", each.runs[0].config.optimizer]
    for name in ("capacity", "decay"):
        if name in options:
            words += [f"--{name}", str(options.pop(name))]
    for name, value in options.items():
        words += ["--set", f"{name}={value}"]
    return shlex.join([*words, "--seed", str(each.runs[0].config.seed)])
