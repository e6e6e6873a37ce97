"""The LIBSVM reader and where data is looked for."""

import bz2
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_svmlight_file

from gradmem.lab.data import libsvm, paths

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("GRADMEM_DATA") or ROOT.parent / "shared" / "data")
TEXT = b"# made here\n-1 2:0.5 4:1 # five\n+1 1:-2e-3\n\n-1 \n+1 3:7\r\n"


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "small"
    path.write_bytes(TEXT)
    return path


def test_agrees_with_scikit_learn(whole):
    ours = libsvm.read(whole)
    features, labels = load_svmlight_file(str(whole))
    assert (ours.features != features).nnz == 0
    assert ours.labels.tolist() == labels.tolist() == [-1, 1, -1, 1]
    assert ours.features.shape == (4, 4)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_compression_is_seen_in_the_bytes_not_the_name(whole, tmp_path, pack):
    packed = tmp_path / "packed"
    packed.write_bytes(pack(TEXT))
    assert (libsvm.read(packed).features != libsvm.read(whole).features).nnz == 0


@pytest.mark.parametrize("pair", [(0, 1), (1, 2), (-1, 1), (3.5, 7)])
def test_any_two_labels_become_signs(pair):
    low, high = pair
    assert libsvm.signs(np.array([high, low, low]), "here").tolist() == [1, -1, -1]


@pytest.mark.parametrize(
    ("labels", "words"), [([1, 2, 3], r"3 labels \(1, 2, 3\)"), ([1, 1], "1 label ")]
)
def test_other_numbers_of_labels_are_refused(labels, words):
    with pytest.raises(ValueError, match=f"some file has {words}.*needs exactly two"):
        libsvm.signs(np.array(labels, dtype=float), "some file")


@pytest.mark.parametrize(
    "line",
    [
        *("-1 2:x", "-1 2", "-1 :2", "one 1:1", "1,2 1:1", "1 2:1 1:1", "1 1:1 1:2", "1 -3:1"),
        *("1 99999999999999999999:1", "1 3:", "1 2:nan", "inf 2:1", "\xff"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "broken"
    path.write_bytes(b"1 1:2\n" + line.encode("latin-1") + b"\n-1 1:3\n")
    with pytest.raises(ValueError) as raised:
        libsvm.read(path)
    assert f"{path}, line 2: " in str(raised.value)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_a_truncated_file_is_named(tmp_path, pack):
    text = b"".join(b"%d 1:%d 2:%d\n" % (i % 2, i, i * i) for i in range(5000))
    path = tmp_path / "short"
    path.write_bytes(pack(text)[:-40])
    with pytest.raises(ValueError, match=r"short: .*truncated or damaged"):
        libsvm.read(path)


def test_damage_inside_a_compressed_file_is_named(tmp_path):
    packed = bytearray(gzip.compress(TEXT * 500))
    packed[len(packed) // 2 :] = bytes(len(packed) - len(packed) // 2)
    path = tmp_path / "damaged"
    path.write_bytes(packed)
    with pytest.raises(ValueError, match=r"damaged: .*truncated or damaged"):
        libsvm.read(path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty").write_bytes(b"\n# nothing\n")
    with pytest.raises(ValueError, match="empty holds no examples"):
        libsvm.read(tmp_path / "empty")


def test_a_name_is_looked_for_with_every_suffix_and_a_path_is_taken_as_it_is(tmp_path):
    home = tmp_path / "libsvm"
    home.mkdir()
    (home / "small.bz2").write_bytes(bz2.compress(TEXT))
    assert libsvm.find_file("small", tmp_path) == home / "small.bz2"
    assert libsvm.find_file(str(home / "small.bz2"), tmp_path / "none") == home / "small.bz2"


def test_a_missing_file_says_where_it_looked_and_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        libsvm.find_file("a1a", tmp_path)
    said = str(raised.value)
    for words in ("a1a, a1a.gz, a1a.bz2", str(tmp_path / "libsvm"), "https://", "GRADMEM_DATA"):
        assert words in said
    with pytest.raises(FileNotFoundError, match="there is no file"):
        libsvm.find_file(str(tmp_path / "a1a"), tmp_path)


def test_the_data_folder_is_what_is_given_then_the_variable_then_the_cache(monkeypatch):
    monkeypatch.setenv(paths.VARIABLE, "from-variable")
    assert paths.data_folder(Path("given")) == Path("given")
    assert paths.data_folder() == Path("from-variable")
    monkeypatch.delenv(paths.VARIABLE)
    assert paths.data_folder() == paths.cache_folder()
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert paths.data_folder() == Path("cache", "gradmem")


@pytest.mark.parametrize(
    ("name", "examples", "positive"),
    [("a1a", 1605, 395), ("mushrooms", 8124, 4208), ("svmguide1", 3089, 2000)],
)
def test_real_files(name, examples, positive):
    if not DATA.exists():
        pytest.skip(f"the LIBSVM files are not beside the repository, in {DATA.name}")
    path = libsvm.find_file(name, DATA)
    ours = libsvm.read(path)
    features, labels = load_svmlight_file(str(path))  # opens .gz by itself
    assert (ours.features != features).nnz == 0
    assert ours.labels.tolist() == labels.tolist()
    assert len(ours.labels) == examples
    assert (libsvm.signs(ours.labels, name) > 0).sum() == positive
