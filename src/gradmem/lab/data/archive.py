"""Files out of a tar file: those the catalogue names, each checked before it appears."""

import gzip
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from gradmem.lab.data.catalogue import Archive, File
from gradmem.lab.data.contents import check


def unpack(path: Path, archive: Archive, files: Sequence[File], folder: Path) -> None:
    """Put ``files`` into the data folder; a file appears whole and right, or not at all.

    Args:
        path: the tar file, packed or not.
        archive: what the catalogue says of it.
        files: what is taken out; nothing else in the archive is looked at.
        folder: the data folder.

    Raises:
        ValueError: the archive is damaged, or one of the files is missing in it or another one.
        OSError: a file cannot be written.
    """
    top = PurePosixPath(archive.path).parent
    wanted = {str(PurePosixPath(file.path).relative_to(top)): file for file in files}
    try:
        with tarfile.open(path) as tar:
            for member in tar:  # in one pass: going back would mean to unpack anew
                name = member.name.removeprefix("./")
                if name in wanted and member.isfile():
                    _put(path, tar, member, wanted.pop(name), folder)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}: the archive is truncated or damaged ({error}); delete it and get it again"
        ) from None
    if wanted:
        raise ValueError(
            f"{path} has no {', no '.join(wanted)}; it is another archive, get the right one"
        )


def _put(
    path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, file: File, folder: Path
) -> None:
    opened = tar.extractfile(member)
    assert opened is not None  # it is a file
    text = opened.read()
    check(path / member.name, text, file.sha256)
    final = folder / file.path
    final.parent.mkdir(parents=True, exist_ok=True)
    draft = final.with_name(f"{final.name}.unpacked.part")
    draft.write_bytes(text)
    draft.replace(final)
