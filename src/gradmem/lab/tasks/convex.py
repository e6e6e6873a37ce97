"""Any LIBSVM file in the setting of the paper's convex experiments, and the two they were on."""

import re
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
from scipy import sparse
from torch import nn

from gradmem.lab.bound.problems import Matrix
from gradmem.lab.data import libsvm
from gradmem.lab.data.contents import SUFFIXES, contents
from gradmem.lab.data.libsvm import Examples, Labels
from gradmem.lab.data.paths import data_folder
from gradmem.lab.tasks.base import Batch, Budget, FixedSplits
from gradmem.lab.tasks.files import FromFiles
from gradmem.lab.tasks.logistic import LogisticRegression, zero_linear
from gradmem.lab.tasks.sparse import SparseLinear, SparseRows, rows_of
from gradmem.lab.tasks.splitting import Rows, hold_out, split, standardised, three_parts
from gradmem.lab.tasks.supervised import whole_numbers

ROWS = 5_000  # of a larger file as many are drawn
L2 = 0.01
LEAST = 10  # examples a class, so that each part has some of it
LARGEST_STANDARDISED = 10_000_000  # numbers; a standardised matrix has no zeros left


class Convex(LogisticRegression):
    """Logistic regression, or softmax regression where there are more than two classes.

    Of the file's rows 5,000 are drawn, by a fixed seed, since some files are ordered by class. Of
    these 80% train, 10% validate and 10% test, stratified. Features are standardised unless they
    are too many, then they stay as they are and sparse. The penalty acts on the intercept too, as a
    torch optimizer's weight decay of .01 would, so the loss is .01-strongly convex.
    """

    free_intercept = False
    budget = Budget(epochs=25, batch_size=25)

    def prepared(self) -> FixedSplits:
        """The examples, drawn, scaled and divided; the same object every time.

        Raises:
            ValueError, FileNotFoundError: there is no such file, or it is not right.
        """
        raise NotImplementedError

    def penalty(self) -> float:
        """The strength of the penalty."""
        return L2

    def data(self) -> FixedSplits:
        """The splits."""
        return self.prepared()

    def model(self, seed: int) -> nn.Module:
        """One output for two classes, else as many as classes."""
        del seed  # the weights start from zero
        inputs, classes = self.prepared().train.inputs, classes_of(self.prepared())
        outputs = 1 if classes == 2 else classes
        if isinstance(inputs, SparseRows):
            return SparseLinear(inputs.matrix.shape[1], outputs)
        return zero_linear(inputs.shape[1], outputs)


def prepare(read: Examples, where: str) -> FixedSplits:
    """What a `Convex` task learns from; ``where`` is what a sentence calls the data."""
    rows = drawn(len(read.labels))
    features, labels = read.features[rows], class_numbers(read.labels[rows], where)
    if not features.count_nonzero():
        raise ValueError(f"{where} has no features other than zero in the rows read")
    tenth = len(rows) // 10
    parts = three_parts(len(rows), tenth, tenth, labels)
    if is_standardised(features.shape):
        features = sparse.csr_matrix(standardised(features.toarray(), parts[0]))
    return split(Batch(rows_of(features), whole_numbers(labels)), parts)


def classes_of(splits: FixedSplits) -> int:
    """How many there are; each is in every part."""
    return 1 + int(splits.train.targets.max())


def drawn(count: int) -> Rows:
    """The numbers of the rows that are read: all, or as many as `ROWS`, always the same."""
    everything = np.arange(count)
    return everything if count <= ROWS else hold_out(everything, ROWS)[1]


def is_standardised(shape: tuple[int, int]) -> bool:
    """Whether so many rows and features become dense.

    >>> is_standardised((5000, 54)), is_standardised((5000, 47236))
    (True, False)
    """
    return shape[0] * shape[1] <= LARGEST_STANDARDISED


def class_numbers(labels: Labels, where: str) -> Rows:
    """The labels as classes from 0, in ascending order of the labels.

    >>> class_numbers(np.repeat([1.0, -1.0], 10), "here")[[0, -1]]
    array([1, 0])

    Raises:
        ValueError: they are not those of a classification.
    """
    kinds, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if (kinds != np.round(kinds)).any():
        odd = kinds[kinds != np.round(kinds)][0]
        raise ValueError(
            f"{where} has labels such as {odd:g}, numbers to predict; a logistic regression needs "
            "classes, which are whole numbers"
        )
    if len(kinds) < 2:
        raise ValueError(
            f"{where} has one label alone ({kinds[0]:g}); a logistic regression needs two classes "
            "at least"
        )
    if counts.min() < LEAST:
        rare = int(counts.argmin())
        raise ValueError(
            f"{where} has {len(kinds)} labels, and {kinds[rare]:g} on {counts[rare]} of the "
            f"{len(labels):,} rows read: each class needs {LEAST} to be in every part. Leave rare "
            "classes out of the file; if the labels are numbers to predict, it is no task of this "
            "kind"
        )
    return classes


class LibsvmFile(Convex):
    """A LIBSVM file of one's own.

    The level that counts as "got there" is what a linear model, fitted in closed form to the same
    training rows, scores on the validation rows.

    Args:
        name: a path; or a file's name in the folder ``libsvm`` of the data folder, with or without
            the ending of a packed file.
        folder: the data folder; None for ``GRADMEM_DATA`` or the user's cache.

    Raises:
        ValueError: the file is not right; says what and where.
        FileNotFoundError: there is none; says where it was looked for.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name, "steps.gz")
    >>> _ = path.write_text("\\n".join(f"{x // 50} 1:{x} 2:1" for x in range(100)))
    >>> task = LibsvmFile(str(path))
    >>> task.name, len(task.data().train)
    ('steps', 80)
    >>> task.title
    'LIBSVM file steps (100 examples, 2 features, standardised), logistic regression with L2 0.01'
    >>> folder.cleanup()
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self.path = libsvm.find_file(name, data_folder(folder))
        self.name = re.sub(r"[^\w.+-]+", "-", unpacked_name(self.path))
        text = contents(self.path)
        read = libsvm.parsed(text, self.path)
        self._splits = prepare(read, str(self.path))
        self._digest = sha256(text).hexdigest()[:12]
        self.title = _title(unpacked_name(self.path), read, classes_of(self._splits))
        self.target = float(f"{linear_score(self._splits):.3g}")

    def prepared(self) -> FixedSplits:
        """The examples, drawn, scaled and divided."""
        return self._splits

    def versions(self) -> dict[str, str]:
        """A digest of the file's contents."""
        return {"data": self._digest}


def _title(name: str, read: Examples, classes: int) -> str:
    count, width = read.features.shape
    examples = f"{count:,}" if count <= ROWS else f"{ROWS:,} of {count:,}"
    features = f"{width:,} feature{'s' if width > 1 else ''}"
    how = "standardised" if is_standardised((min(count, ROWS), width)) else "as they are"
    kind = "logistic regression" if classes == 2 else f"{classes} classes, softmax regression"
    return f"LIBSVM file {name} ({examples} examples, {features}, {how}), {kind} with L2 {L2:g}"


def unpacked_name(path: Path) -> str:
    """The file's name without the ending of a packed one.

    >>> unpacked_name(Path("here/a9a.t.gz"))
    'a9a.t'
    """
    return path.stem if path.suffix in SUFFIXES.values() else path.name


def linear_score(splits: FixedSplits) -> float:
    """The validation accuracy of ridge regression on the classes' indicators."""
    from sklearn.linear_model import RidgeClassifier

    (train, rows), (validation, others) = map(_numbers, (splits.train, splits.validation))
    # of many features a hundred steps, which are as good as all and take a second
    quick = {"solver": "lsqr", "tol": 1e-3, "max_iter": 100} if sparse.issparse(train) else {}
    return float(RidgeClassifier(**quick).fit(train, rows).score(validation, others))


def _numbers(batch: Batch) -> tuple[Matrix, Rows]:
    inputs = batch.inputs.matrix if isinstance(batch.inputs, SparseRows) else batch.inputs.numpy()
    return inputs, batch.targets.numpy()


class PaperSet(FromFiles, Convex):
    """One of the paper's, read from the data folder and counted: nobody could give a checksum.

    Their labels were shuffled by mistake; here they are the file's.
    """

    shape: tuple[int, int]  # examples and features of the file

    def prepared(self) -> FixedSplits:
        """The examples, drawn, scaled and divided."""
        return self._splits

    @cached_property
    def _splits(self) -> FixedSplits:
        (file,) = self.files()
        read = libsvm.read(file.path, file.sha256)
        if read.features.shape != self.shape:
            found, expected = (
                "{:,} examples of {:,} features".format(*shape)
                for shape in (read.features.shape, self.shape)
            )
            raise ValueError(
                f"{file.path} has {found}, where that of {self.needs} has {expected}; it is "
                "truncated or another file, get it again"
            )
        return prepare(read, self.needs)


class Covtype(PaperSet):
    """The forest of a patch of land, the most frequent kind or another, from 54 measurements."""

    name = needs = "libsvm-covtype"
    title = (
        "LIBSVM covtype.binary (5,000 of 581,012 examples, 54 features, standardised), logistic "
        "regression with L2 0.01"
    )
    target = 0.74
    shape = (581_012, 54)


class Rcv1(PaperSet):
    """Whether a news text is on business or industry, from 47,236 words' weights, kept sparse."""

    name = needs = "libsvm-rcv1"
    title = (
        "LIBSVM rcv1_train.binary (5,000 of 20,242 examples, 47,236 features, as they are), "
        "logistic regression with L2 0.01"
    )
    target = 0.9
    shape = (20_242, 47_236)


PAPER_SETS = (Covtype, Rcv1)
