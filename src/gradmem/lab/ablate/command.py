"""What ``gradmem ablate`` does: check the input, run, write, say."""

from pathlib import Path

from rich.console import Console

from gradmem.lab.ablate import findings, pages, runs
from gradmem.lab.ablate.config import AblateConfig
from gradmem.lab.ablate.findings import Findings
from gradmem.lab.ablate.plan import Ablation, prepare
from gradmem.lab.ablate.tables import maps, short_table
from gradmem.lab.config import NAME
from gradmem.lab.files import write_atomically
from gradmem.lab.terminal import grid

MARKS_NOTE = "▲ better, ▼ worse, beyond noise; * at the edge of what was searched"


def carry_out(config: AblateConfig, console: Console) -> Path:
    """Make the runs that are not there yet, then the report; returns its page.

    Raises:
        LabError: an option is wrong, the data or a file cannot be used, or every run crashed.
    """
    ablation = prepare(config)
    runs.carry_out(config, ablation, console, lambda line: _warn(console, line))
    return _conclude(config, ablation, console)


def report_on(config: AblateConfig, console: Console) -> Path:
    """The report of the runs there are, without making any.

    Raises:
        LabError: there are too few runs, or a file cannot be used.
    """
    return _conclude(config, prepare(config), console)


def _conclude(config: AblateConfig, ablation: Ablation, console: Console) -> Path:
    folder = config.folder
    outcomes = runs.outcomes(config, ablation, lambda line: _warn(console, line))
    kept = folder / NAME
    toml = kept.read_text(encoding="utf-8") if kept.is_file() else None
    found = findings.findings(ablation, outcomes, toml)
    write(found, folder)
    if outcomes.outstanding:
        _warn(console, f"some runs are yet to be made; go on with: gradmem resume {folder}")
    _say(found, folder / "report.html", console)
    return folder / "report.html"


def write(found: Findings, folder: Path) -> None:
    """The pages, the picture, and the numbers.

    Raises:
        StoreError: a file cannot be written.
    """
    write_atomically(folder / "report.html", pages.as_html(found))
    write_atomically(folder / "report.md", pages.as_markdown(found))
    write_atomically(folder / pages.PICTURE, pages.as_svg(found))
    write_atomically(folder / "results.csv", pages.as_csv(found))


def _say(found: Findings, page: Path, console: Console) -> None:
    """Two axes as maps, one as a table; warnings, verdicts, and where the report lies."""
    for heading, table in maps(found):
        console.print(f"\n{heading}")
        console.print(grid(table))
    if not maps(found):
        console.print()
        console.print(grid(short_table(found)))
    console.print(f"\n{MARKS_NOTE}\n", soft_wrap=True)
    for line in findings.warnings(found):
        console.print(f"warning: {line}")
    for line in findings.verdicts(found):
        console.print(line, style="bold")
    console.print(findings.caveat(found))
    console.print(f"\nReport: {page}", soft_wrap=True)


def _warn(console: Console, line: str) -> None:
    console.print(f"warning: {line}", soft_wrap=True)
