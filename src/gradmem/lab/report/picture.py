"""A picture for a page of one's own."""

from gradmem.lab import figures
from gradmem.lab.findings import Findings
from gradmem.lab.report import theorem


def picture(found: Findings) -> str:
    """Curves and differences as one SVG file, and the theorem's bound where there is one."""
    return figures.overview(found.comparison, found.differences, theorem.drawings(found))
