"""``gradmem data``: what data sets there are; with names, fetch these."""

import sys
from pathlib import Path

from gradmem.lab.data.catalogue import DATA_SETS, missing
from gradmem.lab.data.download import DownloadError, download
from gradmem.lab.data.paths import data_folder


def main(names: list[str], where: Path | None = None) -> int:
    """Fetch the data sets named, or list all; the exit status."""
    folder = data_folder(where)
    if not names:
        sys.stdout.write(f"data folder: {folder}\n")
        for name in DATA_SETS:
            sys.stdout.write(f"{name:18} {'missing' if missing(name, folder) else 'there'}\n")
    for name in names:
        try:
            paths = download(name, folder, _report if sys.stderr.isatty() else None)
        except (DownloadError, ValueError) as error:
            sys.stderr.write(f"Error: {error}\n")
            return 1
        sys.stdout.writelines(f"{path}\n" for path in paths)
    return 0


def _report(file: str, done: int, total: int | None) -> None:
    whole = "" if total is None else f" of {total / 1e6:.1f}"
    sys.stderr.write(f"\r{file}: {done / 1e6:.1f}{whole} MB ")
    if done == total:
        sys.stderr.write("\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
