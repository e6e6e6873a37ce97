"""From a config to finished runs: what `tune` and `compare` have in common, whoever calls."""

import re
import time
import traceback
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from torch import nn

from gradmem.lab import config as configs
from gradmem.lab.compare import Plan
from gradmem.lab.config import CompareConfig, Config, TuneConfig
from gradmem.lab.errors import ConfigError, LabError, TaskError, hint
from gradmem.lab.files import write_atomically
from gradmem.lab.optimizers import Options, Spec, find, get_optimizers
from gradmem.lab.search import SearchPlan
from gradmem.lab.store import Warn
from gradmem.lab.study import Study, Watcher
from gradmem.lab.tasks import get_task
from gradmem.lab.tasks.base import Task
from gradmem.lab.tensorboard import check_tensorboard, with_tensorboard
from gradmem.lab.tune import trial_options
from gradmem.lab.workers import work_together


def prepare(config: TuneConfig) -> Plan:
    """Check everything that can be checked before anything is run.

    Raises:
        ConfigError: an option does not fit the task or the optimizers.
    """
    task = task_of(config)
    return Plan(
        task=task,
        optimizers=get_optimizers(config.optimizers, config.space),
        trials=config.trials,
        seeds=config.seeds if isinstance(config, CompareConfig) else 0,
        epochs=config.epochs or task.budget.epochs,
        batch_size=config.batch_size,
        tuning_seeds=config.tuning_seeds,
        search=SearchPlan(config.sampler, config.sampler_seed, config.startup),
        timeout=config.timeout,
    )


def task_of(config: Config) -> Task:
    """The task, whose data are looked for where the config says.

    Raises:
        ConfigError: there is none of this name.
    """
    check_tensorboard(config.tensorboard)
    try:
        return get_task(config.task, config.data)
    except LabError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_task(task: Task) -> None:
    """Read the task's data and make its model, so that what is wrong is said before any run.

    Raises:
        TaskError: the data are missing, or the task raised.
    """
    if sentence := task.missing():
        raise TaskError(sentence)
    try:
        task.data()
        task.model(0)
    except (FileNotFoundError, LabError) as error:
        raise TaskError(str(error)) from error
    except Exception as error:
        raise TaskError(f"the task {task.name} cannot be used: {raised(error)}") from error


def complaint(error: Exception) -> str:
    """What an optimizer says that cannot be made; and where, if it does not look meant."""
    return str(error) if isinstance(error, (TypeError, ValueError)) else raised(error)


def raised(error: Exception) -> str:
    """What was raised, and where."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"


def check_setting(task: Task, spec: Spec, options: Options) -> None:
    """Make the optimizer once, so that a wrong option is said before any run.

    Raises:
        ConfigError: it refuses the setting.
    """
    model = task.model(0)
    try:
        spec.build(model, options, task.parameters(model))
    except Exception as error:  # of a user's own it may be any
        said = complaint(error)
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise ConfigError(
            f"{spec.typed} cannot be made with {given or 'no options'}: {said}"
            f"{_meant(said, spec, model)}"
        ) from error


def _meant(said: str, spec: Spec, model: nn.Module) -> str:
    """What to do, if it is an unknown option that is complained of, or one that nobody gives."""
    if unknown := re.search(r"unexpected keyword argument '(\w+)'", said):
        return f"; {hint(unknown[1], _options_of(spec, model))}".rstrip(".")
    if re.search(r"missing \d+ required .*argument", said):
        return "; give it a default, or a value with --space or --set"
    return ""


def _options_of(spec: Spec, model: nn.Module) -> Iterable[str]:
    """What an optimizer takes: the options it is searched in, and its defaults."""
    usual = find(spec.known)
    middle = usual.options_at([0.5] * len(usual.space))
    try:
        return {**middle, **usual.build(model, middle).defaults}
    except Exception:  # one of a user's own that needs more than it says
        return middle


def open_study(
    config: TuneConfig, plan: Plan, warn: Warn, retry_before: float | None = None
) -> Study:
    """The study in the config's folder."""
    if retry_before is None:
        retry_before = time.time() if config.retry_crashed else 0.0
    return Study(
        plan,
        config.folder,
        storage=config.storage,
        checkpoint_seconds=config.checkpoint_seconds,
        retry_before=retry_before,
        warn=warn,
    )


def work(config: TuneConfig, plan: Plan, watcher: Watcher, warn: Warn) -> Study:
    """Make the runs that are not there yet; returns the study with all of them.

    Raises:
        LabError: the data cannot be read, the folder cannot be written to, or every run crashed.
    """
    check_task(plan.task)
    for spec in plan.optimizers:
        check_setting(plan.task, spec, trial_options(spec, 1)[0])
    retry_before = time.time() if config.retry_crashed else 0.0
    study = open_study(config, plan, warn, retry_before)
    keep_config(config, plan.epochs, plan.examples_a_step, warn)
    if config.workers == 1:
        study.work(with_tensorboard(watcher, config.tensorboard))
    else:
        opened = partial(open_elsewhere, config, retry_before)
        work_together(config.workers, opened, study, watcher, warn)
    return study


def open_elsewhere(
    config: TuneConfig, retry_before: float, watcher: Watcher, warn: Warn
) -> tuple[Study, Watcher]:
    """The same study in a process started for it."""
    study = open_study(config, prepare(config), warn, retry_before)
    return study, with_tensorboard(watcher, config.tensorboard)


def keep_config(config: Config, epochs: int, batch_size: int, warn: Warn) -> None:
    """Write the config into its folder, with the task's own budget spelt out.

    Raises:
        ConfigError: the folder is another command's.
    """
    kept = config.model_copy(update={"epochs": epochs, "batch_size": batch_size})
    path = config.folder / configs.NAME
    configs.refuse_another(config.folder, config.command)
    if path.exists():
        _tell_changes(path.parent, kept, warn)
    write_atomically(path, configs.as_toml(kept))


def _tell_changes(folder: Path, config: Config, warn: Warn) -> None:
    """A folder may be used with other options; runs that fit are used again, and it is said."""
    try:
        before = configs.read(folder)
    except ConfigError as error:
        warn(f"{error}; it is written anew")
        return
    if type(before) is type(config) and (changed := configs.changes(before, config)):
        warn(f"the options in {folder} change: {', '.join(changed)}; runs that still fit are kept")
