"""What ``gradmem summary`` does: read, put together, write, say."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from gradmem.lab.files import write_atomically
from gradmem.lab.summary import findings, pages
from gradmem.lab.summary.findings import Findings
from gradmem.lab.summary.reading import read_all
from gradmem.lab.summary.tally import field, in_all
from gradmem.lab.terminal import grid


def prepare(folders: Sequence[Path], fields: Sequence[Sequence[str]]) -> Findings:
    """What the comparisons in ``folders`` say; optimizers that all have are ranked, or ``fields``.

    Raises:
        LabError: a folder cannot be used, or a field names what is not there.
    """
    compared = read_all(folders)
    common = in_all(compared)
    chosen = fields or ([common] if len(common) > 1 else [])
    return findings.findings(compared, [field(names, compared) for names in chosen])


def carry_out(found: Findings, out: Path, console: Console) -> Path:
    """Write the pages, print the result; returns the page to open.

    Raises:
        StoreError: a file cannot be written.
    """
    write_atomically(out / "report.html", pages.as_html(found))
    write_atomically(out / "report.md", pages.as_markdown(found))
    write_atomically(out / pages.PICTURE, pages.as_svg(found))
    write_atomically(out / "results.csv", pages.as_csv(found))
    if found.tallies:
        console.print(grid(findings.tally_table(found)))
    for each in found.fields:
        console.print()
        console.print(grid(findings.field_table(each)))
    console.print()
    for line in findings.warnings(found):
        console.print(f"warning: {line}")
    for line in findings.verdicts(found):
        console.print(line, style="bold")
    page = out / "report.html"
    console.print(f"\nReport: {page}", soft_wrap=True)
    return page
