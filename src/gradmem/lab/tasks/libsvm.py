"""LIBSVM's data sets, and a logistic regression with an L2 penalty: convex problems."""

from functools import cached_property

import numpy as np
from scipy import sparse
from torch import nn

from gradmem.lab.data import libsvm
from gradmem.lab.tasks.base import Batch, Budget, FixedSplits
from gradmem.lab.tasks.convex import PAPER_SETS
from gradmem.lab.tasks.files import FromFiles
from gradmem.lab.tasks.logistic import LogisticRegression, zero_linear
from gradmem.lab.tasks.sparse import SparseLinear, rows_of
from gradmem.lab.tasks.splitting import Rows, hold_out, split, standardised, three_parts
from gradmem.lab.tasks.supervised import whole_numbers


class Libsvm(FromFiles, LogisticRegression):
    """Two or more classes, each example with the label the file gives it.

    Three fifths of the examples train, one validates, one tests, stratified; a second file, where
    there is one, is the test part, and one fifth of the first validates.
    """

    standardise = False  # for features that are neither 0 and 1 nor scaled already

    def data(self) -> FixedSplits:
        """The splits; dense if that is small enough."""
        return self._splits

    def penalty(self) -> float:
        """One over the number of training examples, a usual strength."""
        return 1 / len(self._splits.train)

    def model(self, seed: int) -> nn.Module:
        """One output for two classes."""
        del seed  # the weights start from zero
        return zero_linear(self._splits.train.inputs.shape[1], 1)

    @cached_property
    def _splits(self) -> FixedSplits:
        features, labels, first = self._examples()
        if first == len(labels):
            fifth = len(labels) // 5
            parts = three_parts(len(labels), fifth, fifth, labels)
        else:
            train, validation = hold_out(np.arange(first), first // 5, labels)
            parts = (train, validation, np.arange(first, len(labels)))
        if self.standardise:
            features = sparse.csr_matrix(standardised(features.toarray(), parts[0]))
        return split(Batch(rows_of(features), whole_numbers(labels)), parts)

    def _examples(self) -> tuple[sparse.csr_matrix, Rows, int]:
        """Features, classes from 0, and how many examples the first file has."""
        read = [libsvm.read(file.path, file.sha256) for file in self.files()]
        width = max(each.features.shape[1] for each in read)
        for each in read:  # the last features may be absent from one of two files
            each.features.resize(each.features.shape[0], width)
        labels = np.concatenate([each.labels for each in read])
        classes = np.unique(labels, return_inverse=True)[1]
        features = sparse.vstack([each.features for each in read], format="csr")
        return features, classes, len(read[0].labels)


class A1a(Libsvm):
    """Income above 50,000 dollars, from 119 yes-or-no features."""

    name = needs = "libsvm-a1a"
    title = "LIBSVM a1a (1,605 examples, 119 features), logistic regression with L2"
    budget = Budget(epochs=10, batch_size=32)
    target = 0.83


class A9a(Libsvm):
    """As a1a, with more examples, 123 features and a test file."""

    name = needs = "libsvm-a9a"
    title = "LIBSVM a9a (32,561 + 16,281 examples, 123 features), logistic regression with L2"
    budget = Budget(epochs=10, batch_size=64)
    target = 0.842


class W8a(Libsvm):
    """A topic of web pages, from 300 words that are there or not; 3% of the pages have it."""

    name = needs = "libsvm-w8a"
    title = "LIBSVM w8a (49,749 examples, 300 features), logistic regression with L2"
    budget = Budget(epochs=10, batch_size=64)
    target = 0.9845


class Mushrooms(Libsvm):
    """Edible or not, from 112 yes-or-no features; the classes can be separated."""

    name = needs = "libsvm-mushrooms"
    title = "LIBSVM mushrooms (8,124 examples, 112 features), logistic regression with L2"
    budget = Budget(epochs=5, batch_size=64)
    target = 0.997


class Phishing(Libsvm):
    """Web addresses that deceive, from 68 features."""

    name = needs = "libsvm-phishing"
    title = "LIBSVM phishing (11,055 examples, 68 features), logistic regression with L2"
    budget = Budget(epochs=6, batch_size=64)
    target = 0.935


class Splice(Libsvm):
    """Splice junctions in 60 places of DNA; the file joins LIBSVM's two, and is split anew."""

    name = needs = "libsvm-splice"
    title = (
        "LIBSVM splice (3,175 examples, its train and test files joined, 60 features), logistic "
        "regression with L2"
    )
    budget = Budget(epochs=10, batch_size=32)
    target = 0.845
    standardise = True


class Svmguide1(Libsvm):
    """An astroparticle or not, from 4 measurements."""

    name = needs = "libsvm-svmguide1"
    title = "LIBSVM svmguide1 (3,089 examples, 4 features), logistic regression with L2"
    budget = Budget(epochs=10, batch_size=32)
    target = 0.96
    standardise = True


class News20(Libsvm):
    """Twenty newsgroups from 62,061 words' counts, which stay sparse; more than two classes."""

    name = needs = "libsvm-news20"
    title = "LIBSVM news20 (15,935 examples, 62,061 features, 20 classes), softmax regression, L2"
    budget = Budget(epochs=5, batch_size=64)
    target = 0.842

    def model(self, seed: int) -> nn.Module:
        """20 outputs."""
        del seed  # the weights start from zero
        return SparseLinear(self._splits.train.inputs.matrix.shape[1], 20)


LIBSVM_TASKS = (A1a, A9a, W8a, Mushrooms, Phishing, Splice, Svmguide1, News20, *PAPER_SETS)
