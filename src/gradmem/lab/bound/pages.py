"""What was found as an HTML page, Markdown and a picture: pure functions."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from gradmem.lab import markup
from gradmem.lab.bound import figures, findings
from gradmem.lab.bound.findings import Findings, NoiseFindings
from gradmem.lab.drawing import Draw, panel, picture
from gradmem.lab.findings import Table


@dataclass(frozen=True)
class Page:
    """A page before it is written in any format."""

    title: str
    subtitle: str
    verdicts: Sequence[str]
    results: Table
    settings: Table
    method: Sequence[str]
    panels: Sequence[tuple[str, Draw, str]]


def bound_page(found: Findings) -> Page:
    """The page about a setting."""
    return Page(
        title=findings.title(found),
        subtitle=f"{found.problem.title} · {found.steps:,} steps",
        verdicts=findings.verdicts(found),
        results=findings.run_table(found),
        settings=findings.settings_table(found),
        method=findings.method_sentences(found),
        panels=figures.bound_panels(found),
    )


def noise_page(found: NoiseFindings) -> Page:
    """The page about noise."""
    return Page(
        title="Noise: choosing gradients by norm against fifo",
        subtitle=f"{found.problem.title} · {found.plan.seeds} seeds",
        verdicts=findings.noise_verdicts(found),
        results=findings.noise_table(found),
        settings=findings.noise_settings(found),
        method=findings.noise_method(),
        panels=figures.noise_panels(found),
    )


def as_html(page: Page) -> str:
    """One file: no script, nothing fetched, light and dark."""
    shown = (
        markup.figure(heading[0].upper() + heading[1:], panel(draw), caption)
        for heading, draw, caption in page.panels
    )
    return markup.page(
        title=html.escape(page.title),
        subtitle=html.escape(page.subtitle),
        verdict=markup.paragraphs(page.verdicts[:1], "<strong>", "</strong>")
        + markup.paragraphs(page.verdicts[1:]),
        warnings="",
        scores=markup.html_table(page.results),
        scores_note="",
        legend="",
        figures="".join(shown) if len(page.panels) > 1 else _narrow("".join(shown)),
        settings=markup.html_table(page.settings, text_columns=(1,)),
        settings_note="",
        memory="",
        method=markup.paragraphs(page.method),
    )


def _narrow(figure: str) -> str:
    """A figure that stands alone, no wider than one of two."""
    return f'<div style="max-width: 34rem">{figure}</div>'


def as_markdown(page: Page) -> str:
    """The page as text."""
    parts = [f"# {page.title}", page.subtitle + ".", *page.verdicts]
    parts += ["## Results", markup.markdown_table(page.results)]
    parts += ["## Settings", markup.markdown_table(page.settings)]
    parts += ["## How this was made", *page.method]
    return "\n\n".join(parts) + "\n"


def as_picture(page: Page) -> str:
    """All figures in one SVG, for a page of one's own."""
    return picture([(heading, draw) for heading, draw, _ in page.panels])
