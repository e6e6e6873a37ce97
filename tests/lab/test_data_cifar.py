"""CIFAR's files: of the binary and of the python version, in folders and in the archive."""

import contextlib
import gzip
import io
import os
import pickle
import tarfile

import numpy as np
import pytest

from gradmem.lab.data import catalogue, download
from gradmem.lab.data.archive import unpack
from gradmem.lab.data.catalogue import DATA_SETS
from gradmem.lab.data.cifar import CIFAR10, CIFAR100, read, read_all
from gradmem.lab.data.contents import contents
from gradmem.lab.data.download import DownloadError

from .images import batch, images, know, of_each, pickled, put, records
from .test_data_download import offer, server  # noqa: F401
from .test_libsvm import DATA

LAYOUTS = {"cifar10": CIFAR10, "cifar100": CIFAR100}
every_set = pytest.mark.parametrize("name", LAYOUTS)
LABELS = np.array([3, 9, 0, 3])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some-file"


@every_set
@pytest.mark.parametrize("pack", [lambda text: text, gzip.compress])
def test_records_are_images_and_classes(path, name, pack):
    path.write_bytes(pack(records(name, LABELS)))
    pixels, labels = read(path, LAYOUTS[name])
    assert labels.tolist() == LABELS.tolist()
    assert (pixels == images(name, LABELS)).all()
    assert pixels.dtype == labels.dtype == np.uint8
    pixels[0] = 1  # torch wants to be able to write


def test_a_record_has_its_channels_one_after_the_other_in_rows(path):
    """The format as its authors describe it, written out byte by byte."""
    red, green, blue = (
        bytes([first, *[0] * 31, second] + [0] * 991) for first, second in ((1, 2), (3, 4), (5, 6))
    )
    path.write_bytes(b"\x07" + red + green + blue)
    pixels, labels = read(path, CIFAR10)
    assert labels.tolist() == [7]
    assert pixels[0, :, 0, 0].tolist() == [1, 3, 5]
    assert pixels[0, :, 1, 0].tolist() == [2, 4, 6]
    path.write_bytes(b"\x13\x63" + red + green + blue)
    pixels, labels = read(path, CIFAR100)
    assert labels.tolist() == [99]
    assert pixels[0, :, 1, 0].tolist() == [2, 4, 6]


@every_set
def test_a_pickled_batch_is_the_same_records(path, name):
    path.write_bytes(pickled(batch(name, LABELS)))
    assert contents(path) == records(name, LABELS)
    pixels, labels = read(path, LAYOUTS[name])
    assert labels.tolist() == LABELS.tolist()
    assert (pixels == images(name, LABELS)).all()


@pytest.mark.filterwarnings("ignore:dtype")  # numpy on what numpy wrote
def test_the_pickles_made_here_are_pickles():
    made = pickled(batch("cifar10", LABELS))
    assert made.startswith(b"\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\n")
    found = pickle.loads(made, encoding="bytes")
    assert (found.pop(b"data") == images("cifar10", LABELS).reshape(4, -1)).all()
    assert found[b"labels"] == LABELS.tolist()
    assert found[b"filenames"] == [b"0.png", b"1.png", b"2.png", b"3.png"]


@pytest.mark.parametrize("protocol", [3, 5])
def test_a_batch_pickled_anew_is_read_if_it_asks_for_nothing_else(path, protocol):
    made = batch("cifar10", LABELS)
    if protocol == 5:  # which has arrays of its own kind
        path.write_bytes(pickle.dumps(made, protocol))
        with pytest.raises(ValueError, match=r"asks for numpy\._core\.numeric\._frombuffer"):
            contents(path)
    else:
        path.write_bytes(pickle.dumps(made, protocol))
        assert contents(path) == records("cifar10", LABELS)


def test_several_files_are_joined_in_their_order(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_bytes(records("cifar10", LABELS))
    second.write_bytes(pickled(batch("cifar10", LABELS[:2], seed=1)))
    pixels, labels = read_all([(first, None), (second, None)], CIFAR10)
    assert labels.tolist() == [3, 9, 0, 3, 3, 9]
    assert (pixels[4:] == images("cifar10", LABELS[:2], seed=1)).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", r"has 0 bytes of records, .* CIFAR-10's records of 3,073; it is truncated"),
        (records("cifar10", LABELS)[:-1], r"has 12,291 bytes of records, which is no whole"),
        (records("cifar100", LABELS), "has 12,296 bytes of records, which is no whole number"),
        (records("cifar10", np.array([1, 10])), "label 10 of image 2 is not from 0 to 9; it is an"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(path, text, words):
    path.write_bytes(text)
    with pytest.raises(ValueError, match=rf"some-file:? {words}"):
        read(path, CIFAR10)


def test_both_labels_of_a_record_are_looked_at(path):
    for labels, words in (
        ((20, 5), "label 20 of image 1 is not from 0 to 19"),
        ((0, 100), "label 100 of image 1 is not from 0 to 99"),
    ):
        path.write_bytes(bytes(labels) + bytes(3072))
        with pytest.raises(ValueError, match=words):
            read(path, CIFAR100)


@pytest.mark.parametrize("make", [records, lambda *what: pickled(batch(*what))])
def test_a_wrong_checksum_names_the_file(path, make):
    path.write_bytes(make("cifar10", LABELS))
    with pytest.raises(ValueError, match=r"some-file is not the file it should be: its contents"):
        read(path, CIFAR10, "0" * 64)


# Pickles -----------------------------------------------------------------------------------------


class Runs:
    """Unpickled by anything that trusts it, it makes a file."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_pickle_that_wants_to_run_something_is_refused_and_nothing_runs(path, tmp_path):
    mark = tmp_path / "mark"
    for harmful in (
        pickle.dumps({b"data": Runs(os.mkdir, str(mark))}, 2),
        pickle.dumps(Runs(eval, f"open({str(mark)!r}, 'w')"), 2),
        b"\x80\x02cnumpy\nload\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.",
    ):
        path.write_bytes(harmful)
        with pytest.raises(ValueError, match=r"some-file is a pickle that asks for .*was not run"):
            contents(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Runs(os.mkdir, str(mark)), 2))
    assert mark.exists()  # it would have run


@pytest.mark.parametrize("length", [2, 3, 70, 700, -1])
def test_a_truncated_pickle_is_named(path, length):
    path.write_bytes(pickled(batch("cifar10", LABELS))[:length])
    with pytest.raises(ValueError, match=r"some-file: the pickle is truncated or damaged .*again"):
        contents(path)


def test_damage_anywhere_is_an_error_or_other_records(path):
    """No byte changed at random brings up anything but a sentence."""
    whole = pickled(batch("cifar10", LABELS[:1]))
    head = whole[:200] + whole[-200:]
    chance = np.random.default_rng(0)
    for place in range(3, len(head)):
        damaged = bytearray(whole)
        damaged[place if place < 200 else place - len(head)] = chance.integers(256)
        path.write_bytes(bytes(damaged))
        with contextlib.suppress(ValueError):
            assert len(contents(path)) in (3073, 3074)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({b"data": None}, "its 'data' are not rows of 3,072 bytes"),
        ({b"data": np.zeros((4, 3072))}, "its 'data' are not rows of 3,072 bytes"),
        ({b"data": np.zeros((4, 3071), np.uint8)}, "its 'data' are not rows of 3,072 bytes"),
        ({b"data": np.zeros((2, 6144), np.uint8)}, "its 'data' are not rows of 3,072 bytes"),
        ({b"data": np.zeros((3072, 4), np.uint8).T}, "its 'data' are not rows of 3,072 bytes"),
        ({b"labels": [1, 2, 3]}, "its 'labels' are not a list of 4 numbers"),
        ({b"labels": 7}, "its 'labels' are not a list of 4 numbers"),
        ({b"labels": [1, 2, 3, 256]}, "its 'labels' are not whole numbers from 0 to 255"),
        ({b"labels": [1, 2, 3, b"4"]}, "its 'labels' are not whole numbers from 0 to 255"),
    ],
)
def test_another_pickle_says_what_is_wrong(path, change, words):
    path.write_bytes(pickled(batch("cifar10", LABELS) | change))
    with pytest.raises(ValueError, match=rf"some-file is a pickle, but no batch .*: {words}"):
        contents(path)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ([1, 2], "it has no 'data'"),
        ({b"label_names": [b"frog"]}, "it has no 'data'"),
        ({b"data": np.zeros((1, 3072), np.uint8)}, "it has neither 'labels' nor 'coarse_"),
    ],
)
def test_a_pickle_of_something_else_says_so(path, what, words):
    path.write_bytes(pickled(what))
    with pytest.raises(ValueError, match=words):
        contents(path)


# The data folder ---------------------------------------------------------------------------------


@every_set
def test_either_version_of_each_file_is_found_and_checked(tmp_path, monkeypatch, name):
    data_set = DATA_SETS[name]
    texts = [records(name, LABELS, seed) for seed, _ in enumerate(data_set.files)]
    put(tmp_path, monkeypatch, name, texts)
    last = catalogue.DATA_SETS[name].files[-1]
    (tmp_path / last.path).unlink()
    said = catalogue.missing(name, tmp_path)
    assert f"there is no {last.path} or {last.also} (" in said
    assert f"`gradmem data {name}`" in said
    other = tmp_path / last.also
    other.parent.mkdir()
    other.write_bytes(pickled(batch(name, LABELS, len(texts) - 1)))
    found = catalogue.find(name, tmp_path)
    assert [each.path.name for each in found[:-1]] == [
        file.path.rpartition("/")[2] for file in data_set.files[:-1]
    ]
    assert found[-1].path == other
    assert [contents(each.path, each.sha256) for each in found] == texts
    assert download.download(name, tmp_path)[-1] == other


def tar(members, packed=True):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz" if packed else "w") as archive:
        for name, text in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(text)
            archive.addfile(about, io.BytesIO(text))
    return made.getvalue()


@pytest.fixture
def members(monkeypatch):
    """What is in CIFAR-100's archive, known to the catalogue."""
    files = DATA_SETS["cifar100"].files
    texts = [records("cifar100", LABELS, seed) for seed, _ in enumerate(files)]
    know(monkeypatch, "cifar100", texts)
    names = [file.path.removeprefix("cifar100/") for file in files]
    return {
        "cifar-100-binary/fine_label_names.txt": b"apple",
        **dict(zip(names, texts, strict=True)),
    }


def lies(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("packed", [True, False])
def test_an_archive_that_lies_there_is_unpacked_and_stays(tmp_path, members, packed):
    name = "cifar-100-binary.tar" + ".gz" * packed
    (tmp_path / "cifar100").mkdir()
    (tmp_path / "cifar100" / name).write_bytes(tar(members, packed))
    train, test = download.download("cifar100", tmp_path)
    assert train == tmp_path / "cifar100" / "cifar-100-binary" / "train.bin"
    assert test.read_bytes() == members["cifar-100-binary/test.bin"]
    assert lies(tmp_path) == [name, "test.bin", "train.bin"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda members: tar(members)[:-30], "truncated or damaged .*delete it and get it again"),
        (lambda members: gzip.compress(b"text"), r"archive is truncated or damaged"),
        (lambda members: tar(dict(list(members.items())[:2])), "has no cifar-100-binary/test.bin;"),
        (
            lambda members: tar({**members, "cifar-100-binary/test.bin": b"other"}),
            r"tar.gz/cifar-100-binary/test.bin is not the file it should be",
        ),
    ],
)
def test_a_wrong_archive_says_what_is_wrong(tmp_path, members, spoil, words):
    place = tmp_path / "cifar100" / "cifar-100-binary.tar.gz"
    place.parent.mkdir()
    place.write_bytes(spoil(members))
    with pytest.raises(ValueError, match=rf"cifar-100-binary.*{words}"):
        download.download("cifar100", tmp_path)
    assert place.exists()  # it is not ours
    assert "test.bin" not in lies(tmp_path)


def test_damage_that_only_unpacking_meets_is_said_too(tmp_path, members):
    place = tmp_path / "some.tar.gz"
    place.write_bytes(tar(members)[:-30])
    known = catalogue.DATA_SETS["cifar100"]
    with pytest.raises(ValueError, match="truncated or damaged"):
        unpack(place, known.archive, known.files, tmp_path)
    place.write_bytes(b"\x1f\x8b" + bytes(40))
    with pytest.raises(ValueError, match="truncated or damaged"):
        unpack(place, known.archive, known.files, tmp_path)


@pytest.fixture
def fetched(server, monkeypatch):  # noqa: F811
    """Have the server give this as CIFAR-100's archive."""

    def give(data):
        server.files["/archive.tar.gz"] = data
        known = catalogue.DATA_SETS["cifar100"]
        archive = catalogue.Archive(known.archive.path, (server.url("/archive.tar.gz"),))
        changed = catalogue.DataSet(known.name, known.files, archive)
        for module in (catalogue, download):
            monkeypatch.setattr(module, "DATA_SETS", {"cifar100": changed})

    return give


def test_an_archive_is_fetched_unpacked_and_removed(fetched, server, tmp_path, members):  # noqa: F811
    fetched(tar(members))
    download.download("cifar100", tmp_path)
    assert lies(tmp_path) == ["test.bin", "train.bin"]
    download.download("cifar100", tmp_path)
    assert len(server.asked) == 1


def test_a_wrong_archive_that_was_fetched_does_not_stay(fetched, tmp_path, members):
    fetched(tar({**members, "cifar-100-binary/test.bin": b"other"}))
    with pytest.raises(DownloadError, match=r"is not the archive .*not the file it should be"):
        download.download("cifar100", tmp_path)
    assert lies(tmp_path) == ["train.bin"]


def test_a_disk_that_cannot_be_written_is_a_sentence(fetched, tmp_path, members):
    fetched(tar(members))
    (tmp_path / "cifar100").mkdir()
    (tmp_path / "cifar100" / "cifar-100-binary").write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match="cannot be written"):
        download.download("cifar100", tmp_path)


def test_a_part_that_nobody_offers_says_how_to_come_by_it(tmp_path):
    with pytest.raises(DownloadError, match=r"first4000\.bin could not be fetched.*docs/tasks\.md"):
        download.download("cifar10-part", tmp_path)
    assert "docs/tasks.md" in catalogue.missing("cifar10-part", tmp_path)


def test_the_real_images_that_are_here():
    """Of the first training image the pixels are known, as of all their means."""
    if sentence := catalogue.missing("cifar10-part", DATA):
        pytest.skip(sentence)
    (file,) = catalogue.find("cifar10-part", DATA)
    pixels, labels = read(file.path, CIFAR10, file.sha256)
    assert labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert np.bincount(labels).tolist() == [396, 366, 420, 384, 422, 393, 414, 385, 407, 413]
    assert pixels[0, 0, 0, :8].tolist() == [59, 43, 50, 68, 98, 119, 139, 145]
    assert (pixels / 255).mean(axis=(0, 2, 3)) == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-3)
    assert (pixels / 255).std(axis=(0, 2, 3)) == pytest.approx([0.2470, 0.2435, 0.2616], abs=2e-3)


def test_labels_of_each_class_are_as_many():
    assert np.bincount(of_each(3, 4)).tolist() == [4, 4, 4]
