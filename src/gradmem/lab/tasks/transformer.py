"""A small transformer that predicts the next symbol from those before it."""

from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention


class Transformer(nn.Module):
    """Embeddings of symbols and places, blocks of attention, a layer that names the next symbol.

    That layer shares its weights with the embedding of symbols, and has no bias. There is no
    dropout. Matrices and embeddings begin normally distributed with a spread of 0.02; of those
    that add to the stream, with that over the root of how many there are.

    Args:
        symbols: how many there are.
        length: the longest window.
        width: of the stream.
        blocks: how many.
        heads: of attention, in each.
    """

    def __init__(self, symbols: int, length: int, width: int, blocks: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, width)
        self.places = nn.Embedding(length, width)
        made = [Block(width, heads) for _ in range(blocks)]
        self.blocks = nn.ModuleList(made)
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, symbols, bias=False)
        self.output.weight = self.embedding.weight
        self.apply(_begin)
        for block in made:
            for layer in (block.mix, block.shrink):
                nn.init.normal_(layer.weight, std=0.02 / (2 * blocks) ** 0.5)

    def forward(self, symbols: Tensor) -> Tensor:
        """Logits at every place of windows (examples, length), from the symbols up to there."""
        stream = self.embedding(symbols) + self.places.weight[: symbols.shape[1]]
        for block in self.blocks:
            stream = block(stream)
        logits: Tensor = self.output(self.norm(stream))
        return logits


class Block(nn.Module):
    """Attention to the places before, a network of one hidden layer; both add to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width)  # queries, keys and values
        self.mix = nn.Linear(width, width)
        self.before_network = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.shrink = nn.Linear(4 * width, width)

    def forward(self, stream: Tensor) -> Tensor:
        """The stream with what this block adds."""
        stream = stream + self.mix(self._attention(self.before_attention(stream)))
        added: Tensor = self.shrink(gelu(self.widen(self.before_network(stream))))
        return stream + added

    def _attention(self, stream: Tensor) -> Tensor:
        examples, length, width = stream.shape
        each = self.attend(stream).view(examples, length, 3, self.heads, width // self.heads)
        queries, keys, values = each.permute(2, 0, 3, 1, 4)
        found = scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return found.transpose(1, 2).reshape(examples, length, width)


def _begin(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
