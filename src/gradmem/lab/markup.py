"""Pieces of pages: what is in common to every report, in HTML and Markdown."""

import html
import re
from collections.abc import Sequence
from importlib import resources
from string import Template

from gradmem.lab.findings import Table


def document(*, title: str, subtitle: str, body: str) -> str:
    """The HTML page, whose parts are HTML already."""
    template = resources.files(__package__).joinpath("report.html").read_text("utf-8")
    return Template(template).substitute(title=title, subtitle=subtitle, body=body)


def page(
    *,
    title: str,
    subtitle: str,
    verdict: str,
    warnings: str,
    scores: str,
    scores_note: str,
    legend: str,
    figures: str,
    settings: str,
    settings_note: str,
    memory: str,
    method: str,
) -> str:
    """A short report: what was found, results, curves, settings; its parts are HTML already."""
    body = (
        f'<section class="verdict">{verdict}</section>\n{warnings}\n'
        f"<h2>Results</h2>\n{scores}\n{note(scores_note)}\n"
        f'<h2>Curves</h2>\n<p class="legend">{legend}</p>\n'
        f'<div class="figures">{figures}</div>\n'
        f"<h2>Settings</h2>\n{settings}\n{note(settings_note)}\n"
        f"{memory}\n<h2>How this was made</h2>\n{method}"
    )
    return document(title=title, subtitle=subtitle, body=body)


def section(identity: str, heading: str, *parts: str) -> str:
    """A part of a page under its heading, which can be linked to."""
    inside = "\n".join(part for part in parts if part)
    return f'<section id="{identity}">\n<h2>{html.escape(heading)}</h2>\n{inside}\n</section>'


def note(text: str) -> str:
    """Small print, HTML already; nothing of nothing."""
    return f'<p class="soft">{text}</p>' if text else ""


def code(text: str) -> str:
    """A program, a file, a message: as it is, and escaped."""
    return f"<pre>{html.escape(text)}</pre>"


def marked(text: str) -> str:
    """A sentence of Markdown, escaped, its `code` as code.

    >>> marked("`sum` < 2")
    '<code>sum</code> &lt; 2'
    """
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def figures(*panels: str) -> str:
    """Figures beside each other, as many as there is room for."""
    return f'<div class="figures">{"".join(panels)}</div>' if any(panels) else ""


def paragraphs(sentences: Sequence[str], before: str = "", after: str = "") -> str:
    """Each sentence as a paragraph, escaped."""
    return "".join(f"<p>{before}{html.escape(line)}{after}</p>" for line in sentences)


def figure(heading: str, svg: str, caption: str) -> str:
    """A figure with its heading and caption."""
    return (
        f"<figure><h3>{html.escape(heading)}</h3>{svg}"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def html_table(table: Table, text_columns: tuple[int, ...] = ()) -> str:
    """A table; `text_columns` are set left instead of right."""

    def row(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=text' if i in text_columns else ''}>{html.escape(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{row('td', cells)}</tr>" for cells in table.rows)
    head = f"<thead><tr>{row('th', table.heading)}</tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def markdown_table(table: Table) -> str:
    """The same as Markdown."""
    lines = [table.heading, ("---",) * len(table.heading), *table.rows]
    return "\n".join("| " + " | ".join(map(markdown_cell, cells)) + " |" for cells in lines)


def markdown_cell(text: str) -> str:
    """Text for a cell: on one line, and no bar that would end it."""
    return markdown_text(text).replace("|", r"\|")


def markdown_text(text: str) -> str:
    r"""Text in which nothing is a tag, a link or a new paragraph.

    >>> markdown_text("<script>1 < 2</script> ![x](http://y)")
    '&lt;script>1 < 2&lt;/script> ![x]\\(http://y)'
    """
    joined = " ".join(text.split())
    return re.sub(r"\]\(", r"]\\(", re.sub(r"<(?=[A-Za-z/!?])", "&lt;", joined))
