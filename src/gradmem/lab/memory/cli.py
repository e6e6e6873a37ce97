"""``gradmem inspect``; thin."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradmem.lab.commands.options import (
    FAILED,
    INTERRUPTED,
    Data,
    OpenReport,
    bad_input,
    console_for,
    folder_option,
    open_page,
    print_error,
    told,
)

if TYPE_CHECKING:
    from rich.console import Console


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(inspect)


def inspect(
    task: Annotated[
        str, typer.Argument(help="A task of `gradmem tasks`, or your own: module:attribute.")
    ] = "digits",
    optimizer: Annotated[
        str, typer.Option(help="With a memory; your own: module:attribute+memory.")
    ] = "adam_c",
    lr: Annotated[float | None, told("Learning rate.", "the optimizer's")] = None,
    capacity: Annotated[
        str | None, told("Gradients kept; with commas, a run for each.", "the optimizer's")
    ] = None,
    decay: Annotated[
        str | None, told("Of priorities; with commas, a run for each.", "the optimizer's")
    ] = None,
    policy: Annotated[str | None, told("Which are kept.", "the optimizer's")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another option: scope=tensor. As often as needed."),
    ] = None,
    epochs: Annotated[int | None, told("Epochs of each run.", "the task's own")] = None,
    batch_size: Annotated[int | None, told("Examples per step.", "the task's own")] = None,
    seed: Annotated[int, typer.Option(help="Of the initial weights and the order.")] = 0,
    data: Data = None,
    out: Annotated[
        Path | None, folder_option("Folder for everything.", "gradmem-results/inspect-TASK")
    ] = None,
    open_report: OpenReport = None,
) -> None:
    """Train on TASK, record what the memory does at every step, and draw it."""
    from gradmem.lab.config import parse_settings, refuse_another
    from gradmem.lab.errors import ConfigError
    from gradmem.lab.memory.command import carry_out, prepare

    given = {"lr": lr, "capacity": capacity, "decay": decay, "policy": policy}
    console = console_for(quiet=False)
    with bad_input():
        refuse_another(out, "inspect")
        options = parse_settings(setting, "--set") or {}
        for name, value in given.items():
            if value is not None and name in options:
                raise ConfigError(f"{name} is given twice, by --{name} and by --set")
        direct = {name: given[name] for name in ("lr", "policy") if given[name] is not None}
    with _sentences(console), bad_input():
        plan = prepare(
            task,
            optimizer,
            capacity=capacity,
            decay=decay,
            options={**direct, **options},
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            data=data,
        )
    with _sentences(console):
        page, whole = carry_out(plan, out, console)
    if open_report:
        open_page(page)
    if not whole:
        raise typer.Exit(INTERRUPTED)


@contextmanager
def _sentences(console: "Console") -> Iterator[None]:
    """Expected errors, and an interruption when nothing is being recorded, end in a sentence."""
    from gradmem.lab.errors import ConfigError, LabError

    try:
        yield
    except ConfigError:
        raise
    except LabError as error:
        print_error(str(error))
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        console.print("Interrupted.")
        raise typer.Exit(INTERRUPTED) from None
