"""Packed files, checksums, IDX files, and the catalogue of data sets."""

import bz2
import gzip
import hashlib
import io
import struct
import zipfile

import numpy as np
import pytest

from gradmem.lab.data import catalogue, idx
from gradmem.lab.data.catalogue import DATA_SETS, File
from gradmem.lab.data.contents import contents, packing

TEXT = bytes(range(256)) * 40
SHA = hashlib.sha256(TEXT).hexdigest()


def zipped(text, files=1):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(files):
            archive.writestr(f"file{number}", text)
    return packed.getvalue()


PACKERS = [lambda text: text, gzip.compress, bz2.compress, zipped]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some-file"


@pytest.mark.parametrize("pack", PACKERS)
def test_a_checksum_is_that_of_the_unpacked_contents(path, pack):
    path.write_bytes(pack(TEXT))
    assert contents(path, SHA) == contents(path) == TEXT


@pytest.mark.parametrize("pack", PACKERS)
def test_a_wrong_checksum_names_file_and_both_checksums(path, pack):
    path.write_bytes(pack(TEXT[:-1]))
    with pytest.raises(ValueError) as raised:
        contents(path, SHA)
    said = str(raised.value)
    other = hashlib.sha256(TEXT[:-1]).hexdigest()
    for words in (str(path), SHA, other, "10,239 bytes", "delete it and get it again"):
        assert words in said


@pytest.mark.parametrize("pack", PACKERS[1:])
@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-20], lambda data: data[:40] + bytes(30) + data[70:]]
)
def test_a_truncated_or_damaged_file_is_named(path, pack, spoil):
    path.write_bytes(spoil(pack(TEXT)))
    with pytest.raises(ValueError, match=r"some-file: .* truncated or damaged .*get it again"):
        contents(path)


def test_an_archive_of_several_files_is_refused(path):
    path.write_bytes(zipped(TEXT, files=2))
    with pytest.raises(ValueError, match="holds 2 files instead of one"):
        contents(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        contents(tmp_path)


def test_suffixes_of_packed_files():
    assert [packing(pack(TEXT)) for pack in PACKERS] == ["", ".gz", ".bz2", ".zip"]


# IDX ---------------------------------------------------------------------------------------------


def images(count=3, rows=2, columns=2, magic=2051, extra=b""):
    pixels = bytes(range(count * rows * columns))
    return struct.pack(">4I", magic, count, rows, columns) + pixels + extra


def labels(values=(0, 9, 5), magic=2049):
    return struct.pack(">2I", magic, len(values)) + bytes(values)


def test_idx_files_are_read(tmp_path):
    one, other = tmp_path / "images", tmp_path / "labels.gz"
    one.write_bytes(images())
    other.write_bytes(gzip.compress(labels()))
    pixels, kinds = idx.read_pair(one, other, 10, (None, None))
    assert pixels.tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]]]
    assert kinds.tolist() == [0, 9, 5]
    assert pixels.dtype == np.uint8
    pixels[0] = 1  # torch wants to be able to write


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "has 0 bytes, too few for the header"),
        (images()[:10], "has 10 bytes, too few"),
        (labels((1,) * 20), "begins with the number 2049 where an IDX file of images has 2051"),
        (images(magic=0x0D03), "begins with the number 3331"),
        (images()[:-1], "has 27 bytes where its header, 3 x 2 x 2, asks for 28; it is truncated"),
        (images(extra=b"?"), "has 29 bytes .* damaged"),
        (struct.pack(">4I", 2051, *(2**32 - 1,) * 3), "has 16 bytes .* truncated"),
    ],
)
def test_a_wrong_file_of_images_says_what_is_wrong(path, text, words):
    path.write_bytes(text)
    with pytest.raises(ValueError, match=rf"some-file {words}"):
        idx.read_images(path)


def test_wrong_labels_say_what_is_wrong(path, tmp_path):
    path.write_bytes(labels((0, 10, 1)))
    with pytest.raises(ValueError, match="label 10 of example 2 is not from 0 to 9"):
        idx.read_labels(path, 10)
    (tmp_path / "images").write_bytes(images(count=4))
    path.write_bytes(labels())
    with pytest.raises(ValueError, match=r"4 images, but .*some-file holds 3 labels"):
        idx.read_pair(tmp_path / "images", path, 10, (None, None))


# Catalogue ---------------------------------------------------------------------------------------


def test_the_catalogue_is_well_formed():
    for name, data_set in DATA_SETS.items():
        assert data_set.can_be_fetched or data_set.by_hand or name == "cifar10-part"
    files = [file for data_set in DATA_SETS.values() for file in data_set.files]
    places: dict[str, File] = {}
    for file in files:
        for place in file.places:  # a file may be of several sets
            assert places.setdefault(place, file).sha256 == file.sha256
        if file.sha256 is not None:
            assert len(file.sha256) == 64
            int(file.sha256, 16)
        assert all(url.startswith("https://") for url in file.urls)
        assert not file.path.endswith((".gz", ".bz2", ".zip"))


@pytest.mark.parametrize("suffix", catalogue.ENDINGS)
def test_a_file_is_found_packed_or_not(tmp_path, suffix):
    file = File("kind/name", SHA, ())
    assert file.locate(tmp_path) is None
    (tmp_path / "kind").mkdir()
    there = tmp_path / "kind" / f"name{suffix}"
    there.write_bytes(b"")
    assert file.locate(tmp_path) == there


def test_a_missing_data_set_says_which_files_and_what_to_do(tmp_path):
    (tmp_path / "libsvm").mkdir()
    (tmp_path / "libsvm" / "a9a.gz").write_bytes(b"")
    said = catalogue.missing("libsvm-a9a", tmp_path)
    for words in (
        "'libsvm-a9a' is not complete",
        str(tmp_path),
        "no libsvm/a9a.t (",
        "`gradmem data libsvm-a9a`",
        "GRADMEM_DATA",
    ):
        assert words in said
    assert "no libsvm/a9a (" not in said
    with pytest.raises(FileNotFoundError) as raised:
        catalogue.find("libsvm-a9a", tmp_path)
    assert str(raised.value) == said
    (tmp_path / "libsvm" / "a9a.t").write_bytes(b"")
    assert catalogue.missing("libsvm-a9a", tmp_path) is None
    found = catalogue.find("libsvm-a9a", tmp_path)
    assert [each.path.name for each in found] == ["a9a.gz", "a9a.t"]
