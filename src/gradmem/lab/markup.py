"""Pieces of pages: what is in common to every report, in HTML and Markdown."""

import html
from collections.abc import Sequence
from importlib import resources
from string import Template

from gradmem.lab.findings import Table


def page(**parts: str) -> str:
    """The HTML page with these parts, one for every placeholder of its template."""
    template = resources.files(__package__).joinpath("report.html").read_text("utf-8")
    return Template(template).substitute(parts)


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
    return f"<table><thead><tr>{row('th', table.heading)}</tr></thead><tbody>{body}</tbody></table>"


def markdown_table(table: Table) -> str:
    """The same as Markdown."""
    lines = [table.heading, ("---",) * len(table.heading), *table.rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
