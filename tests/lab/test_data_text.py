"""Readers of text: words, pairs of sentences, word vectors; data sets put there by hand."""

import gzip
import json

import numpy as np
import pytest

from gradmem.lab.data import catalogue, download, glove, nli, words
from gradmem.lab.data.catalogue import DATA_SETS
from gradmem.lab.data.words import END, UNKNOWN, Vocabulary


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some-file"


# Words -------------------------------------------------------------------------------------------


def test_every_line_ends_with_a_word_of_its_own_empty_ones_too(path):
    path.write_bytes("\ufeff one  two \n \n\x85 three\u2028four <unk>\n".encode())
    read = words.read_words(path)
    assert read == ["one", "two", END, END, "three", "four", UNKNOWN, END]
    packed = path.with_suffix(".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert words.read_words(packed) == read


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            b"one two\nthree fo",
            "ends in the middle of a line, after 'one two.nthree fo'; it is tru",
        ),
        (b"one \xff two\n", r"is not UTF-8 text \(byte 4\)"),
        (b" \n", "is empty"),
        (b"", "is empty"),
        # Named, as its bytes hold the time of day and processes must agree on the names of tests.
        pytest.param(
            gzip.compress(b"one two\n" * 900)[:-9],
            "truncated or damaged",
            id="packed and cut short",
        ),
    ],
)
def test_a_wrong_text_says_what_is_wrong(path, text, says):
    path.write_bytes(text)
    with pytest.raises(ValueError, match=rf"some-file:? .*{says}.* get it again"):
        words.read_words(path)


def test_another_text_than_the_checksums_is_refused(path):
    path.write_bytes(b"one two\n")
    with pytest.raises(ValueError, match="not the file it should be"):
        words.read_words(path, sha256="0" * 64)


def test_a_vocabulary_has_the_words_of_the_training_text_alone():
    made = Vocabulary(["b", UNKNOWN, "a", "b"])
    assert made.names == (UNKNOWN, "b", "a")
    assert made.numbers(["a", "c", "b", UNKNOWN]) == [2, 0, 1, 0]
    assert Vocabulary(["b", "a", "b"], at_least=2).names == (UNKNOWN, "b")


# Pairs -------------------------------------------------------------------------------------------


def snli_line(label="neutral", **changes):
    """As SNLI's own files have it."""
    fields = {
        "annotator_labels": [label],
        "captionID": "4705552913.jpg#2",
        "gold_label": label,
        "pairID": "4705552913.jpg#2r1n",
        "sentence1": "Two women are embracing.",
        "sentence1_parse": "(ROOT (S (NP (CD Two) (NNS women)) (VP (VBP are)) (. .)))",
        "sentence2": "The sisters aren't hugging.",
    }
    fields |= changes
    return json.dumps({name: value for name, value in fields.items() if value is not None}) + "\n"


@pytest.mark.parametrize("pack", [lambda text: text, gzip.compress])
def test_pairs_are_read_and_those_without_a_label_left_out(path, pack):
    lines = (
        snli_line("entailment") + snli_line("-") + snli_line("contradiction", sentence2="No\u2028.")
    )
    path.write_bytes(pack(lines.encode()))
    first, second = nli.read_pairs(path)
    assert first == ("Two women are embracing.", "The sisters aren't hugging.", 0)
    assert second == ("Two women are embracing.", "No\u2028.", 2)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            snli_line()[:-30],
            r"line 2 is not a JSON object with gold_label, .*JSONDecodeError.*trunc",
        ),
        (snli_line(sentence2=None), "line 2 is not a JSON object with .*KeyError: 'sentence2'"),
        ("[1, 2]\n", "line 2 is not a JSON object"),
        ("\n", "line 2 is not a JSON object"),
        (snli_line("maybe"), "line 2: 'maybe' is not one of entailment, neutral, contradiction"),
        (snli_line(sentence1=3), "line 2: .*or a sentence is not text"),
    ],
)
def test_a_wrong_line_of_pairs_is_named(path, line, says):
    path.write_text(snli_line() + line)
    with pytest.raises(ValueError, match=rf"some-file, {says}.* get it again"):
        nli.read_pairs(path)


def test_a_file_without_a_pair_is_refused(path):
    path.write_text(snli_line("-"))
    with pytest.raises(ValueError, match="has no labelled pair"):
        nli.read_pairs(path)


SICK = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"
SICK_LINE = '1\tA "dog" barks\tNobody barks\t3.5\tCONTRADICTION'


def test_sick_is_read_whatever_ends_its_lines(path):
    for end in ("\n", "\r\n"):
        path.write_bytes(end.join([SICK, SICK_LINE, SICK_LINE, ""]).encode())
        assert nli.read_sick(path) == [('A "dog" barks', "Nobody barks", 2)] * 2


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([SICK.replace("_A", "_1"), SICK_LINE], ": the first line does not name the columns"),
        ([], " is empty"),
        ([SICK, SICK_LINE[:20]], ", line 2: 3 values where there are 5 columns; .*truncated"),
        ([SICK, SICK_LINE[:-4]], ", line 2: 'contradic' is not one of entailment"),
        ([SICK], " has no labelled pair"),
    ],
)
def test_a_wrong_file_of_sick_says_what_is_wrong(path, lines, says):
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=f"some-file{says}"):
        nli.read_sick(path)


@pytest.mark.parametrize(
    ("typed", "cut_up"),
    [
        ("It isn't John's.", "It is n't John 's ."),
        ('She said: "we\'ll go!"', "She said : `` we 'll go ! ''"),
        ("(I can't, you know)", "-LRB- I ca n't , you know -RRB-"),
        ("A 5-year-old  child", "A 5 - year - old child"),
    ],
)
def test_sentences_as_typed_and_as_cut_up_are_the_same_words(typed, cut_up):
    assert nli.tokenise(typed) == nli.tokenise(cut_up)
    assert all(word == word.lower() and " " not in word for word in nli.tokenise(typed))


# Word vectors ------------------------------------------------------------------------------------


def glove_line(word, *numbers):
    return f"{word} {' '.join(map(str, numbers))}\n"


def test_vectors_of_the_words_wanted_are_read(path):
    path.write_text(
        glove_line("the", 1, -0.5) + glove_line(". .", 2, 3) + glove_line("dog", 4, 5e-1)
    )
    found = glove.read(path, {"dog", "the", "cat", "."}, width=2)  # ". ." is another word
    assert sorted(found) == ["dog", "the"]
    assert found["the"].tolist() == [1.0, -0.5]
    assert found["dog"].dtype == np.float32


@pytest.mark.parametrize(
    ("last", "says"),
    [
        ("dog 1.5\n", "line 2: not a word and 2 numbers; the file is truncated"),
        ("dog 1.5 2.", "line 2: not a word and 2 numbers; the file is truncated"),
        ("dog 1.5 x\n", "line 2: could not convert"),
    ],
)
def test_a_wrong_line_of_vectors_is_named(path, last, says):
    path.write_text(glove_line("the", 1, 2) + last)
    with pytest.raises(ValueError, match=f"some-file, {says}"):
        glove.read(path, {"dog"}, width=2)


def test_vectors_are_found_in_the_folder_the_larger_ones_first(tmp_path):
    assert glove.find(tmp_path) is None
    (tmp_path / "glove").mkdir()
    for place in ("glove/glove.6B.300d.txt", "glove/glove.840B.300d.txt", "glove.6B.300d.txt"):
        (tmp_path / place).touch()
        assert glove.find(tmp_path) == tmp_path / place


# By hand -----------------------------------------------------------------------------------------


BY_HAND = ["wikitext2", "snli", "snli-part", "multinli", "multinli-dev"]


@pytest.mark.parametrize("name", BY_HAND)
def test_what_is_put_there_by_hand_says_where_it_is_had(name, tmp_path):
    address = DATA_SETS[name].by_hand
    assert address.startswith("https://")
    said = catalogue.missing(name, tmp_path)
    assert f"Get it from {address} and put these files there" in said
    with pytest.raises(download.DownloadError, match="is not complete in the data folder"):
        download.download(name, tmp_path)
    for file in DATA_SETS[name].files:
        assert file.sha256 is None
        (tmp_path / file.path).parent.mkdir(exist_ok=True)
        (tmp_path / file.path).write_text("anything")
    assert len(download.download(name, tmp_path)) == len(DATA_SETS[name].files)
    assert [found.sha256 for found in catalogue.find(name, tmp_path)] == [None] * len(
        DATA_SETS[name].files
    )
