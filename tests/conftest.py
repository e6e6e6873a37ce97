"""What is no test, and one line about the golden cases at the end of a run that had them."""

from __future__ import annotations

# Scripts that torchrun starts: no tests, and no modules to import.
collect_ignore_glob = ["distributed/*_worker.py"]


def pytest_terminal_summary(terminalreporter):
    reports = [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])]
    if any("test_golden.py" in report.nodeid for report in reports):
        import test_golden

        terminalreporter.write_line(test_golden.summary())
