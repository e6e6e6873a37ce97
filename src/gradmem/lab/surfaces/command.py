"""What ``gradmem surface`` does: check the input, run, write, say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from gradmem.lab.files import drafted, write_atomically
from gradmem.lab.surfaces import findings, pages, search
from gradmem.lab.surfaces.findings import Findings
from gradmem.lab.surfaces.plan import RATES, Plan, enter, parse_rates, parse_start
from gradmem.lab.surfaces.table import get_surface
from gradmem.lab.terminal import grid


def prepare(
    name: str,
    optimizers: str,
    *,
    rates: str | None,
    start: str | None,
    dimension: int | None,
    memory: Mapping[str, Any],
    steps: int,
    noise: float,
    tolerance: float,
    seed: int,
) -> Plan:
    """Check everything that can be checked before anything is run.

    Raises:
        ValueError: the input cannot be used.
    """
    surface = get_surface(name)
    names = [each.strip() for each in optimizers.split(",") if each.strip()]
    return Plan(
        surface,
        entrants=enter(names, memory, seed),
        start=parse_start(start, surface, dimension),
        steps=steps,
        rates=parse_rates(rates, names, surface),
        noise=noise,
        tolerance=tolerance,
        seed=seed,
    )


def carry_out(plan: Plan, out: Path | None, console: Console) -> Path:
    """Run, write the page and the pictures, print the result; returns the page to open."""
    folder = out or Path("gradmem-results") / f"surface-{plan.surface.name}"
    total = len(plan.entrants) * (len(RATES) if plan.searched else 1)
    done = 0
    with console.status("running") as status:

        def notify(what: str) -> None:
            nonlocal done
            done += 1
            status.update(f"{done} of {total} paths: {what}")

        found = Findings(plan, search.carry_out(plan, notify))
        status.update("drawing")
        write_atomically(folder / "report.html", pages.as_html(found))
        write_atomically(folder / "figure.svg", pages.as_svg(found))
        with drafted(folder / "figure.png") as file:
            file.write(pages.as_png(found))
        write_atomically(folder / "results.csv", findings.csv_page(found))
    _say(console, found, folder / "report.html")
    return folder / "report.html"


def _say(console: Console, found: Findings, page: Path) -> None:
    for i, line in enumerate(findings.verdicts(found)):
        console.print(line, style="bold" if i == 0 else None)
    console.print()
    console.print(grid(findings.result_table(found)))
    remarks = [f"warning: {line}" for line in findings.warnings(found)]
    if searched := findings.rates_line(found):
        remarks.append(searched)
    if remarks:
        console.print("\n" + "\n".join(remarks))
    console.print(f"\nReport: {page}", soft_wrap=True)
