"""SNLI: what follows from the caption of a picture."""

from gradmem.lab.tasks.inference import ENCODERS, Inference


class Snli(Inference):
    """549,367 pairs to train on, 9,842 to validate and 9,824 to test: all that have a label.

    Where the training file is not there but the small part of it is, that is trained on.
    """

    needs = "snli"
    part = "snli-part"
    pairs, part_pairs = (549_367, 9_842, 9_824), (1_666, 9_842, 9_824)
    part_target = 0.45
    part_says = (
        "Only 1,666 of SNLI's 549,367 training pairs are in the data folder: this is not the whole "
        "data set"
    )


class SnliInferSent(Snli):
    """The largest states of an LSTM in both directions."""

    name, encoder = "snli-infersent", "infersent"
    title = f"SNLI, {ENCODERS[encoder][1]}"
    target = 0.8


class SnliLstm(Snli):
    """The last state of an LSTM."""

    name, encoder = "snli-lstm", "lstm"
    title = f"SNLI, {ENCODERS[encoder][1]}"
    target = 0.8


class SnliConvnet(Snli):
    """Four convolutions."""

    name, encoder = "snli-convnet", "convnet"
    title = f"SNLI, {ENCODERS[encoder][1]}"
    target = 0.8


SNLI_TASKS = (SnliInferSent, SnliLstm, SnliConvnet)
