"""The findings as pages: a self-contained HTML file, Markdown, CSV, a picture. Pure functions."""

from gradmem.lab.report.markdown import markdown_page
from gradmem.lab.report.page import html_page
from gradmem.lab.report.picture import picture
from gradmem.lab.report.rows import csv_page, summary_csv

__all__ = ["csv_page", "html_page", "markdown_page", "picture", "summary_csv"]
