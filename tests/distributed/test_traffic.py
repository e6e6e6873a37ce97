"""What ranks keep and send, counted; and the page that says so."""

from __future__ import annotations

import sys
from pathlib import Path

from processes import torchrun

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import scale


def test_bytes_and_collectives_are_those_of_the_formulas() -> None:
    torchrun("traffic_worker.py", processes=2)


def test_the_tables_of_the_page_are_what_the_script_prints() -> None:
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()
    tables = list(scale.tables())
    assert len(tables) == 6
    missing = [table.splitlines()[0] for table in tables if f"\n\n{table}\n\n" not in page]
    assert missing == [], "run python benchmarks/scale.py, and put its tables there"
