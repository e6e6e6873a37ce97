"""WikiText-2: articles of Wikipedia, 33,278 words, case, numbers and punctuation kept."""

from gradmem.lab.tasks.language import LstmWords, perplexity


class Wikitext2Lstm(LstmWords):
    """The paper's language model on a larger text."""

    name = "wikitext2-lstm"
    title = "WikiText-2 (2,088,628 words to train on), LSTM of 128 units"
    needs = "wikitext2"
    metric = perplexity(33_278)
    target = 220.0  # a guess: the text has not been trained on here
    tokens = (2_088_628, 217_646, 245_569)  # with the ends of lines
