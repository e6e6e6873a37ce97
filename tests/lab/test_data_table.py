"""Tables of text: reading, types, and their encoding by the training rows alone."""

import gzip

import numpy as np
import pytest

from gradmem.lab.data.encoding import MOST_LEVELS, encode
from gradmem.lab.data.table import (
    CategoricalColumn,
    NumericColumn,
    joined,
    read_table,
    typed,
)

TEXT = 'age,"home, town",paid\n31, Ulm ,1.5\n?,"Bad ""X""",-2e3\n\n40,,nan\n'


@pytest.fixture
def read(tmp_path):
    def write_and_read(text, **options):
        path = tmp_path / "people.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_table(path, **options)

    return write_and_read


def types(table, **options):
    return {column.name: column for column in typed(table, **options)}


def test_values_types_and_gaps(read):
    table = read(TEXT)
    assert len(table) == 3
    columns = types(table)
    assert columns["age"].values.tolist() == pytest.approx([31, np.nan, 40], nan_ok=True)
    assert columns["home, town"].values.tolist() == ["Ulm", 'Bad "X"', ""]
    assert columns["paid"].values.tolist() == pytest.approx([1.5, -2000, np.nan], nan_ok=True)


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_and_line_ends_are_seen(read, separator, end):
    lines = [separator.join(row) for row in (("a", "b", "c"), ("1", "2", "x y"), ("3", "4", "z"))]
    table = read(end.join(lines))
    assert table.columns == {"a": ["1", "3"], "b": ["2", "4"], "c": ["x y", "z"]}


def test_packed_without_header_and_with_a_mark_of_its_encoding(read):
    assert read(gzip.compress(b"\xef\xbb\xbfa,b\n1,2")).columns == {"a": ["1"], "b": ["2"]}
    assert read("1,2\n3,4", names=("x", "y")).columns == {"x": ["1", "3"], "y": ["2", "4"]}


def test_what_a_column_is_can_be_said(read):
    table = read("zip,n\n01234,1\n99999,two\n")
    assert isinstance(types(table)["zip"], NumericColumn)
    assert types(table, categorical=["zip"])["zip"].values.tolist() == ["01234", "99999"]
    with pytest.raises(ValueError, match=r"people.csv: column 'n' has 'two' in row 2, .*not a num"):
        typed(table, numeric=["n"])
    with pytest.raises(ValueError, match=r"no column 'nn'; it has zip, n"):
        typed(table, numeric=["nn"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n3\n", "people.csv, line 3: 1 values where there are 2 columns"),
        ('a,b\n1,"x\ny"\n3,4,5\n', "people.csv, line 4: 3 values where there are 2"),
        ("a,a\n1,2\n", "two columns called 'a'"),
        ("a,b\n", "has no rows"),
        ("", "has no rows"),
        (b"a\n\xe9", r"is not UTF-8 text \(byte 2\)"),
        ("a\n" + "1" * 200_000, "people.csv, line 2: field larger than field limit"),
    ],
)
def test_a_broken_file_says_where(read, text, words):
    with pytest.raises(ValueError, match=words):
        read(text)


def test_an_infinite_number_is_none(read):
    table = read("a\n1\ninf\n")
    assert isinstance(types(table)["a"], CategoricalColumn)
    with pytest.raises(ValueError, match="'inf' in row 2"):
        typed(table, numeric=["a"])


def test_parts_of_tables(read):
    table = read("a,b\n1,2\n")
    assert list(table.without({"a"}).columns) == ["b"]
    assert joined(table, table).columns == {"a": ["1", "1"], "b": ["2", "2"]}
    assert table.replaced("a", ["9"]).columns == {"a": ["9"], "b": ["2"]}
    assert table.columns["a"] == ["1"]
    with pytest.raises(ValueError, match="no column 'c'"):
        table.without({"c"})


# Encoding ----------------------------------------------------------------------------------------


def numeric(*values):
    return NumericColumn("x", np.array(values, dtype=float))


def categorical(*values):
    return CategoricalColumn("c", np.array(values))


TRAIN = np.arange(4)


@pytest.mark.parametrize("scaling", ["standard", "quantile"])
def test_numbers_are_scaled_by_the_training_rows(scaling):
    column = numeric(1, 2, 3, 4, 100, 2.5)
    features = encode([column], TRAIN, scaling)[:, 0]
    assert features[:4].mean() == pytest.approx(0, abs=1e-9)
    assert (np.diff(features[:5]) > 0).all() or scaling == "quantile"
    assert features[5] == pytest.approx(0, abs=1e-6)
    other = encode([numeric(1, 2, 3, 4, -7, 2.5)], TRAIN, scaling)[:, 0]
    assert (other[:4] == features[:4]).all()
    if scaling == "standard":
        assert features[:4].std() == pytest.approx(1)
        assert features[4] == pytest.approx((100 - 2.5) / np.std([1, 2, 3, 4]))


def test_quantiles_make_a_long_tail_normal():
    column = numeric(*np.exp(3 * np.random.default_rng(0).standard_normal(3000)))
    features = encode([column], np.arange(2000), "quantile")[:, 0]
    assert abs(features[2000:].mean()) < 0.1
    assert features[2000:].std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("scaling", ["standard", "quantile"])
def test_gaps_are_the_middle_and_marked(scaling):
    features = encode([numeric(1, np.nan, 3, 5, np.nan)], TRAIN, scaling)
    assert features.shape == (5, 2)
    assert features[:, 1].tolist() == [0, 1, 0, 0, 1]
    assert features[[1, 4], 0].tolist() == [0, 0]
    unseen = encode([numeric(1, 2, 3, 5, np.nan)], TRAIN, scaling)
    assert unseen.shape == (5, 1)  # no gap among the training rows, nothing to learn from a mark
    assert unseen[4, 0] == 0


@pytest.mark.parametrize("scaling", ["standard", "quantile"])
@pytest.mark.parametrize("values", [(7, 7, 7, 7, 9), (np.nan,) * 5])
def test_a_constant_or_empty_column_is_zero(scaling, values):
    features = encode([numeric(*values)], TRAIN, scaling)
    assert (features[:, 0] == 0).all()
    assert np.isfinite(features).all()


def test_categories_become_columns_and_an_unseen_one_none_of_them():
    features = encode([categorical("b", "a", "", "b", "new")], TRAIN)
    assert features.tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_rare_and_unseen_categories_share_a_column_if_there_are_many():
    often = [f"often{number}" for number in range(MOST_LEVELS)] * 3
    column = categorical(*often, "rare", "scarce", "unseen")
    features = encode([column], np.arange(len(often) + 2))
    assert features.shape == (len(often) + 3, MOST_LEVELS + 1)
    assert (features.sum(axis=1) == 1).all()
    assert features[-3:, -1].tolist() == [1, 1, 1]
    assert features[:-3, -1].sum() == 0


def test_names_of_rows_are_refused():
    column = categorical(*(f"person {number}" for number in range(300)))
    with pytest.raises(ValueError, match=r"column 'c' has 300 different texts in 300 .*drop it"):
        encode([column], np.arange(300))


def test_a_number_that_is_none_is_named():
    column = categorical(*map(str, range(299)), "1.234,5")
    with pytest.raises(ValueError, match=r"they are numbers, but for '1\.234,5'; mend it"):
        encode([column], np.arange(300))


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="must be one of standard, quantile, got 'robust'"):
        encode([numeric(1, 2)], np.arange(1), "robust")
    with pytest.raises(ValueError, match="no column to learn from"):
        encode([], np.arange(1))
