"""The Penn Treebank as Mikolov prepared it: 10,000 words, numbers as N, rare words unknown."""

from gradmem.lab.tasks.base import Budget
from gradmem.lab.tasks.language import LstmWords, TransformerWords, perplexity


class PtbLstm(LstmWords):
    """The paper's language model."""

    name = "ptb-lstm"
    title = "Penn Treebank (929,589 words to train on), LSTM of 128 units"
    needs = "ptb"
    metric = perplexity(10_000)
    target = 160.0


class PtbLstmPart(PtbLstm):
    """The same on a fifth of the training text; a run takes minutes on a CPU."""

    name = "ptb-lstm-part"
    title = "Penn Treebank's first 8,000 lines (176,978 words to train on), LSTM of 128 units"
    partial = (
        "Of the Penn Treebank's training text the first 8,000 of 42,068 lines are read, and the "
        "8,269 words are theirs; perplexities do not compare with those on the whole text"
    )
    lines = 8_000
    metric = perplexity(8_269)
    budget = Budget(epochs=10, batch_size=1)
    target = 250.0


class PtbTransformer(TransformerWords):
    """The same text, with a transformer."""

    name = "ptb-transformer"
    title = "Penn Treebank (929,589 words to train on), transformer, 2 blocks of width 128"
    needs = "ptb"
    metric = perplexity(10_000)
    clip_norm = 1.0
    target = 170.0
