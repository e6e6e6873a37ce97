"""An encoder-decoder with attention: from what the user said and vectors beside it to an answer."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import softmax
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gradmem.lab.data.dialogues import END, GO, NONE, SIGNS

NO_WORD, FIRST, LAST = SIGNS.index(NONE), SIGNS.index(GO), SIGNS.index(END)

State = tuple[Tensor, Tensor]  # hidden and cell, each (examples, units)


class EncoderDecoder(nn.Module):
    """An LSTM reads the user's words, another one writes the answer, a word a step.

    Between them the last hidden state is mixed with the vectors of belief and database. At each
    step additive attention weighs the encoder's states, and what it finds goes into the decoder
    with the embedding of the word before.

    Args:
        heard: words that the user may say.
        said: words that the system may say.
        belief: inputs of belief.
        database: inputs of database.
        embedding: width of both embeddings.
        units: width of both LSTMs.
    """

    def __init__(
        self, heard: int, said: int, belief: int, database: int, embedding: int, units: int
    ) -> None:
        super().__init__()
        self.heard = nn.Embedding(heard, embedding, padding_idx=NO_WORD)
        self.encoder = nn.LSTM(embedding, units, batch_first=True)
        self.mix = nn.Linear(units + belief + database, units, bias=False)
        self.said = nn.Embedding(said, embedding)
        self.decoder = nn.LSTMCell(embedding + units, units)
        self.from_state = nn.Linear(units, units)
        self.from_encoder = nn.Linear(units, units, bias=False)
        self.energy = nn.Parameter(torch.randn(units) / units**0.5)
        self.output = nn.Linear(units, said)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits of each word of the answer from those before it, of shape (examples, steps, said).

        ``inputs`` has ``user``, words filled up with `NO_WORD`, ``belief``, ``database``, and
        ``before``, the words of the answer moved on by one.
        """
        seen, state = self._read(inputs)
        states = []
        for embedded in self.said(inputs["before"]).unbind(dim=1):
            state = self._step(embedded, state, *seen)
            states.append(state[0])
        logits: Tensor = self.output(torch.stack(states, dim=1))
        return logits

    @torch.no_grad()
    def answer(self, inputs: Mapping[str, Tensor], longest: int) -> Tensor:
        """The most likely word at each step, to `LAST` or for ``longest`` steps."""
        seen, state = self._read(inputs)
        word = torch.full((len(inputs["user"]),), FIRST, device=inputs["user"].device)
        done = torch.zeros_like(word, dtype=torch.bool)
        words = []
        for _ in range(longest):
            state = self._step(self.said(word), state, *seen)
            word = torch.where(done, LAST, self.output(state[0]).argmax(dim=-1))
            words.append(word)
            done |= word == LAST
            if bool(done.all()):
                break
        return torch.stack(words, dim=1)

    def _read(self, inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], State]:
        """What attention works on, and the decoder's first state."""
        words = inputs["user"]
        lengths = (words != NO_WORD).sum(dim=1)
        packed = pack_padded_sequence(
            self.heard(words), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        outputs, (hidden, cell) = self.encoder(packed)
        states, _ = pad_packed_sequence(outputs, batch_first=True)
        nothing = words[:, : states.shape[1]] == NO_WORD
        known = torch.cat([hidden[0], inputs["belief"], inputs["database"]], dim=1)
        seen = (states, self.from_encoder(states), nothing)
        return seen, (torch.tanh(self.mix(known)), cell[0])

    def _step(
        self, embedded: Tensor, state: State, states: Tensor, keys: Tensor, nothing: Tensor
    ) -> State:
        energies = torch.tanh(keys + self.from_state(state[0]).unsqueeze(1)) @ self.energy
        weights = softmax(energies.masked_fill(nothing, -torch.inf), dim=1)
        context = (weights.unsqueeze(1) @ states).squeeze(1)
        hidden, cell = self.decoder(torch.cat([embedded, context], dim=1), state)
        return hidden, cell
