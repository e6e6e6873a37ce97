"""Having an ablation carried out: one study after the other, in one folder."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from rich.console import Console

from gradmem.lab.ablate import config as configs
from gradmem.lab.ablate.config import AblateConfig
from gradmem.lab.ablate.plan import Ablation, Part, all_specs, prepare
from gradmem.lab.compare import Evaluated
from gradmem.lab.progress import watch
from gradmem.lab.session import check_setting, check_task
from gradmem.lab.study import Study, Watcher
from gradmem.lab.tensorboard import with_tensorboard
from gradmem.lab.tune import trial_options
from gradmem.lab.workers import work_together

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Outcomes:
    """What the finished runs amount to.

    Args:
        by_name: every cell that was run, each on the same seeds.
        seeds: how many.
        outstanding: runs that are yet to be made.
    """

    by_name: Mapping[str, Evaluated]
    seeds: int
    outstanding: int


def carry_out(config: AblateConfig, ablation: Ablation, console: Console, warn: Warn) -> None:
    """Make the runs that are not there yet.

    Raises:
        LabError: the data cannot be read, the folder cannot be written to, or every run crashed.
    """
    for part in ablation.parts:
        check_task(part.plan.task)
    for part, spec in all_specs(ablation.parts):
        check_setting(part.plan.task, spec, trial_options(spec, 1)[0])
    retry_before = time.time() if config.retry_crashed else 0.0
    budget = {"epochs": ablation.plan.epochs, "batch_size": ablation.plan.examples_a_step}
    configs.keep(config.model_copy(update=budget), warn)
    for i, part in enumerate(ablation.parts):
        if part.name:
            console.print(f"{part.name} ({part.plan.runs} of {ablation.runs} runs)")
        study = open_study(config, part, warn, retry_before)
        with watch(console, part.plan) as watcher:
            if config.workers == 1:
                study.work(with_tensorboard(watcher, config.tensorboard))
            else:
                opened = partial(_open_elsewhere, config, i, retry_before)
                work_together(config.workers, opened, study, watcher, warn)


def open_study(config: AblateConfig, part: Part, warn: Warn, retry_before: float = 0.0) -> Study:
    """A part's study in the config's folder, which all parts share."""
    return Study(
        part.plan,
        config.folder,
        checkpoint_seconds=config.checkpoint_seconds,
        retry_before=retry_before,
        warn=warn,
    )


def _open_elsewhere(
    config: AblateConfig, part: int, retry_before: float, watcher: Watcher, warn: Warn
) -> tuple[Study, Watcher]:
    """The same study in a process started for it."""
    study = open_study(config, prepare(config).parts[part], warn, retry_before)
    return study, with_tensorboard(watcher, config.tensorboard)


def outcomes(config: AblateConfig, ablation: Ablation, warn: Warn) -> Outcomes:
    """What there is, also if some runs are outstanding.

    Raises:
        NoResultsError: a search is not finished, or there is no seed that every cell has.
    """
    found = [open_study(config, part, warn).comparison() for part in ablation.parts]
    seeds = min(each.plan.seeds for each in found)
    return Outcomes(
        {
            each.spec.name: replace(each, runs=each.runs[:seeds])
            for comparison in found
            for each in comparison.results
        },
        seeds,
        sum(each.outstanding for each in found),
    )
