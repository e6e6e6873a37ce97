"""The figures of an ablation."""

from gradmem.lab.ablate.curves import Panel, curves
from gradmem.lab.ablate.findings import Findings
from gradmem.lab.ablate.maps import maps


def panels(found: Findings) -> list[Panel]:
    """All there are for these findings; the first are those that say most."""
    return maps(found) if len(found.ablation.axes) > 1 else curves(found)
