"""A picture for a page of one's own."""

from gradmem.lab import figures
from gradmem.lab.findings import Findings


def picture(found: Findings) -> str:
    """Curves and differences as one SVG file."""
    return figures.overview(found.comparison, found.differences)
