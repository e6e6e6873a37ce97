"""Options that several commands share, and what is done about errors."""

import signal
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def folder_option(help_text: str, default: str) -> Any:
    """An option that names a folder; what it is when left out is only told."""
    return typer.Option(help=help_text, show_default=default, file_okay=False)


def told(help_text: str, default: str, *names: str) -> Any:
    """An option that may be left out; what it is then is only told."""
    return typer.Option(*names, help=help_text, show_default=default)


TaskName = Annotated[
    str | None,
    typer.Argument(
        help="A task of `gradmem tasks`, or your own: module:attribute, file.csv:column, "
        "libsvm:file.",
        show_default=False,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="TOML with any of these options.", dir_okay=False),
]
Optimizers = Annotated[
    str | None,
    told(
        "Names with commas: of `gradmem optimizers`, or your own: module:attribute, with a memory "
        "around it module:attribute+memory.",
        "adam,adam_c",
    ),
]
Trials = Annotated[int | None, told("Settings tried for each optimizer.", "32")]
TuningSeeds = Annotated[int | None, told("Runs of each setting; their mean decides.", "1")]
Seeds = Annotated[int | None, told("Fresh seeds at the best setting.", "20")]
Epochs = Annotated[int | None, told("Epochs per run.", "the task's own")]
BatchSize = Annotated[int | None, told("Examples per step.", "the task's own")]
Sampler = Annotated[str | None, told("halton or tpe.", "halton")]
SamplerSeed = Annotated[int | None, told("Of the settings tried.", "0")]
Startup = Annotated[int | None, told("Quasi-random settings before TPE.", "12")]
Spaces = Annotated[
    list[str] | None,
    typer.Option(
        "--space",
        help="What to search: adam.lr=1e-5:1, or adam_c.policy=fifo,random, or adam.eps=1e-8.",
    ),
]
Timeout = Annotated[float | None, told("Seconds a run may take.", "no limit")]
CheckpointSeconds = Annotated[
    float | None, told("Least time between two checkpoints of a run; 0: every epoch.", "10")
]
Workers = Annotated[int | None, told("Processes at work.", "1", "--workers", "-j")]
Storage = Annotated[
    str | None,
    told("A data base for the Optuna studies, sqlite:///FILE say.", "a file in the folder"),
]
RetryCrashed = Annotated[
    bool | None,
    typer.Option("--retry-crashed", help="Make runs again that crashed.", show_default=False),
]
TensorBoard = Annotated[
    Path | None, folder_option("Write each run's curves there for TensorBoard.", "no")
]
Data = Annotated[
    Path | None, folder_option("Where data sets lie.", "GRADMEM_DATA, else the user's cache")
]
Out = Annotated[Path | None, folder_option("Folder for everything.", "gradmem-results/TASK")]
OpenReport = Annotated[
    bool | None, typer.Option("--open/--no-open", help="Open the report in the browser.")
]
Records = Annotated[
    bool | None,
    typer.Option(
        "--records/--no-records",
        help="Make one run of each memory variant again, recorded, for the memory map.",
        show_default="records",
    ),
]
Quiet = Annotated[
    bool | None,
    typer.Option("--quiet", "-q", help="Print errors alone.", show_default=False),
]


@contextmanager
def bad_input() -> Iterator[None]:
    """What is wrong with the input is a sentence about it, and so is what is missing."""
    from gradmem.lab.errors import LabError

    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise typer.BadParameter(str(error)) from None
    except LabError as error:
        print_error(str(error))
        raise typer.Exit(FAILED) from None


@contextmanager
def ends_in_sentences(console: "Console", interrupted: str) -> Iterator[None]:
    """Expected errors and interruptions end in a sentence and an exit code."""
    from gradmem.lab.errors import LabError
    from gradmem.lab.workers import stop_on_terminate

    before = signal.getsignal(signal.SIGTERM)
    stop_on_terminate()
    try:
        yield
    except LabError as error:
        print_error(str(error))
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        console.print(interrupted, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def sentences(console: "Console", folder: Path) -> Iterator[None]:
    """The same of a study in a folder, whose wrong settings are wrong input."""
    from gradmem.lab.errors import ConfigError

    interrupted = (
        f"Interrupted. Finished runs are kept in {folder / 'runs'}; the same command, or "
        f"gradmem resume {folder}, continues from there."
    )
    with ends_in_sentences(console, interrupted):
        try:
            yield
        except ConfigError as error:
            raise typer.BadParameter(str(error)) from None


def print_error(sentence: str) -> None:
    """A sentence on the error stream, quiet or not."""
    typer.echo(f"Error: {sentence}.".replace("..", "."), err=True)


def open_page(page: Path) -> None:
    """Show a page in the browser."""
    webbrowser.open(page.resolve().as_uri())


def console_for(*, quiet: bool) -> "Console":
    """Where a command prints."""
    from rich.console import Console

    return Console(markup=False, highlight=False, quiet=quiet, file=sys.stdout)
