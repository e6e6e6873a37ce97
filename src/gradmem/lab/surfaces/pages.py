"""The findings as a page and as pictures: pure functions."""

import html

from gradmem.lab import markup
from gradmem.lab.drawing import CSS_COLOURS, panel, picture, printed, slim
from gradmem.lab.surfaces import figures, findings
from gradmem.lab.surfaces.findings import Findings


def as_html(found: Findings) -> str:
    """One file: no script, nothing fetched, light and dark."""
    first, *others = findings.verdicts(found)
    warned = "".join(
        f'<p class="warning">{html.escape(line)}.</p>' for line in findings.warnings(found)
    )
    shown = (
        markup.figure(heading[0].upper() + heading[1:], slim(panel(draw)), caption)
        for heading, draw, caption in figures.panels(found)
    )
    return markup.page(
        title=html.escape(findings.title(found)),
        subtitle=html.escape(findings.subtitle(found)),
        verdict=markup.paragraphs([first], "<strong>", "</strong>") + markup.paragraphs(others),
        warnings=warned,
        scores=markup.html_table(findings.result_table(found)),
        scores_note=html.escape(findings.GAP_NOTE),
        legend=_legend(found),
        figures="".join(shown),
        settings=markup.html_table(findings.settings_table(found), text_columns=(1,)),
        settings_note="",
        memory="",
        method=markup.paragraphs(findings.method_sentences(found)),
    )


def _legend(found: Findings) -> str:
    by_name = figures.looks(found)
    return "".join(
        f'<span><i style="border-top: 3px {_border(by_name[each.name])} '
        f'{CSS_COLOURS[by_name[each.name].colour]}"></i>{html.escape(each.label)}</span>'
        for each in found.plan.entrants
    )


def _border(look: figures.Look) -> str:
    return "solid" if look.dashes == "-" else "dashed"


def as_svg(found: Findings) -> str:
    """The chief figures in one file, for a page of one's own."""
    shown = figures.chief(figures.panels(found))
    return slim(picture([(heading, draw) for heading, draw, _ in shown]))


def as_png(found: Findings) -> bytes:
    """The same as pixels."""
    return figures.png(figures.chief(figures.panels(found, printed)))
