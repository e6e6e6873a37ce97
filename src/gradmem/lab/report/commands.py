"""Commands that the report suggests."""

import shlex

from gradmem.lab.compare import Evaluated, Plan
from gradmem.lab.config import as_setting
from gradmem.lab.findings import Findings


def inspect_commands(found: Findings) -> str:
    """For each memory one command that records it by step, at the setting that was chosen."""
    plan = found.comparison.plan
    return "\n".join(
        _inspect(plan, each)
        for each in found.comparison.results
        if each.runs and each.runs[0].memory
    )


def lasting(plan: Plan) -> list[str]:
    """The options that make a run as long as the study's, where the task's own would not."""
    usual = plan.task.budget
    words = ["--epochs", str(plan.epochs)] if plan.epochs != usual.epochs else []
    if plan.examples_a_step != usual.batch_size:
        words += ["--batch-size", str(plan.examples_a_step)]
    return words


def _inspect(plan: Plan, each: Evaluated) -> str:
    options = dict(each.options)
    task = plan.task.asked or plan.task.name
    words = ["gradmem", "inspect", task, "--optimizer", each.spec.typed]
    for name in ("capacity", "decay"):
        if name in options:
            words += [f"--{name}", str(options.pop(name))]
    for name, value in options.items():
        words += ["--set", f"{name}={as_setting(value)}"]
    return shlex.join([*words, *lasting(plan), "--seed", str(each.runs[0].config.seed)])
