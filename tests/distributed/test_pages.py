"""The programs on the page about distributed training run as they stand, and learn."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from processes import torchrun

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"
PROGRAMS = dict(
    re.findall(r"^```python\n# ([\w ]+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
)


def test_every_section_has_its_program() -> None:
    assert list(PROGRAMS) == ["ddp", "fully_shard", "tensor parallel", "zero"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "train.py"
    program.write_text(PROGRAMS[name], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    said = torchrun("page_worker.py", program, processes=2)
    losses = [float(loss) for loss in re.findall(r"step \d+: loss ([\d.]+)", said)]
    assert len(losses) == 5
    assert losses[-1] < losses[0] < 4.9  # ln 128 is 4.85
    if name == "fully_shard":
        assert said.count("(5, 64, 128) of (5, 128, 128)") == 2
    if name in ("ddp", "zero"):
        assert "model" in said
        assert "5/5" in said
