"""The Penn Treebank as Mikolov prepared it: 10,000 words, numbers as N, rare words unknown."""

from gradmem.lab.tasks.language import LstmWords, TransformerWords, perplexity


class PtbLstm(LstmWords):
    """The paper's language model."""

    name = "ptb-lstm"
    title = "Penn Treebank (929,589 words to train on), LSTM of 128 units"
    needs = "ptb"
    metric = perplexity(10_000)
    target = 160.0


class PtbTransformer(TransformerWords):
    """The same text, with a transformer."""

    name = "ptb-transformer"
    title = "Penn Treebank (929,589 words to train on), transformer, 2 blocks of width 128"
    needs = "ptb"
    metric = perplexity(10_000)
    clip_norm = 1.0
    target = 170.0
