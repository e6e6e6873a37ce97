"""What is no test, how Triton is to run, and one line about the golden cases at the end of a run
that had them.
"""

from __future__ import annotations

import os

import torch

# Scripts that are started as programs: no tests, and no modules to import.
collect_ignore_glob = ["distributed/*_worker.py", "triton_compiler.py"]

# Triton reads it when it is imported, whoever does that first: where there is no device its kernels
# are run by its interpreter (test_fused_triton.py).
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_terminal_summary(terminalreporter):
    reports = [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])]
    if any("test_golden.py" in report.nodeid for report in reports):
        import test_golden

        terminalreporter.write_line(test_golden.summary())
