"""SICK: short sentences that were changed step by step, whole and small."""

from typing import ClassVar

from gradmem.lab.data.nli import read_sick
from gradmem.lab.tasks.inference import ENCODERS, Inference


class Sick(Inference):
    """4,500 pairs to train on, 500 to validate and 4,927 to test, as in SemEval 2014."""

    needs = "sick"
    read: ClassVar = staticmethod(read_sick)


class SickInferSent(Sick):
    """The largest states of an LSTM in both directions."""

    name, encoder = "sick-infersent", "infersent"
    title = f"SICK (4,500 pairs to train on), {ENCODERS[encoder][1]}"
    target = 0.7


class SickLstm(Sick):
    """The last state of an LSTM."""

    name, encoder = "sick-lstm", "lstm"
    title = f"SICK (4,500 pairs to train on), {ENCODERS[encoder][1]}"
    target = 0.7


class SickConvnet(Sick):
    """Four convolutions."""

    name, encoder = "sick-convnet", "convnet"
    title = f"SICK (4,500 pairs to train on), {ENCODERS[encoder][1]}"
    target = 0.7


SICK_TASKS = (SickInferSent, SickLstm, SickConvnet)
