"""The command line of ``gradmem``; what each command does is in `commands`."""

import sys
from typing import Annotated

try:
    import typer
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}; the command line needs: pip install 'gradmem[lab]'") from None

from gradmem.lab.commands import (
    ablate,
    bench,
    bound,
    folder,
    lists,
    sparsify,
    study,
    summary,
    train,
)
from gradmem.lab.memory import cli as memory
from gradmem.lab.surfaces import cli as surfaces

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _say_version(wanted: bool) -> None:
    if wanted:
        import torch

        import gradmem

        typer.echo(f"gradmem {gradmem.__version__}, torch {torch.__version__}")
        raise typer.Exit


@app.callback()
def _any(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say the versions."),
    ] = False,
) -> None:
    """Ask whether a memory of past gradients helps an optimizer."""


for part in (
    study,
    ablate,
    summary,
    train,
    folder,
    lists,
    bound,
    surfaces,
    memory,
    bench,
    sparsify,
):
    part.register(app)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
