"""MultiNLI: what follows from a sentence of ten kinds of text."""

import numpy as np

from gradmem.lab.data.nli import Pair
from gradmem.lab.tasks.inference import ENCODERS, Inference, Parts
from gradmem.lab.tasks.splitting import hold_out

VALIDATION = 0.2  # of the matched pairs, where they have to train too


class Multinli(Inference):
    """392,702 pairs to train on, the 9,815 matched ones validate, the 9,832 mismatched ones test.

    The labels of the official test sets are not published. The mismatched pairs are of other kinds
    of text than those trained on. Where the training file is not there, four fifths of the matched
    pairs train and the rest validate.
    """

    needs = "multinli"
    part = "multinli-dev"
    pairs, part_pairs = (392_702, 9_815, 9_832), (9_815, 9_832)
    part_target = 0.38
    part_says = (
        "MultiNLI's 392,702 training pairs are not in the data folder: four fifths of its matched "
        "development set train and the rest validates"
    )

    def divide(self, files: list[list[Pair]]) -> Parts:
        """The files as they are, or the first of two divided, stratified by label."""
        if len(files) == 3:
            return super().divide(files)
        matched, mismatched = files
        labels = np.array([pair.label for pair in matched])
        rows = hold_out(np.arange(len(matched)), round(VALIDATION * len(matched)), labels)
        train, validation = ([matched[row] for row in part] for part in rows)
        return train, validation, mismatched


class MultinliInferSent(Multinli):
    """The largest states of an LSTM in both directions."""

    name, encoder = "multinli-infersent", "infersent"
    title = f"MultiNLI, {ENCODERS[encoder][1]}"
    target = 0.65


class MultinliLstm(Multinli):
    """The last state of an LSTM."""

    name, encoder = "multinli-lstm", "lstm"
    title = f"MultiNLI, {ENCODERS[encoder][1]}"
    target = 0.65


class MultinliConvnet(Multinli):
    """Four convolutions."""

    name, encoder = "multinli-convnet", "convnet"
    title = f"MultiNLI, {ENCODERS[encoder][1]}"
    target = 0.65


MULTINLI_TASKS = (MultinliInferSent, MultinliLstm, MultinliConvnet)
