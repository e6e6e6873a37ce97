"""For the other examples: text that every machine has, and a small transformer that reads it."""

import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn

SYMBOLS = 256  # a symbol is a byte
TRAINING = ("argparse", "difflib", "inspect", "statistics", "subprocess", "tarfile")
VALIDATION = ("configparser", "textwrap")


def windows(modules: tuple[str, ...], length: int) -> Tensor:
    """The sources of these modules of Python's library, as bytes, in rows of this length."""
    library = Path(sysconfig.get_path("stdlib"))
    text = b"".join((library / f"{module}.py").read_bytes() for module in modules)
    rows = len(text) // length
    return (
        torch.frombuffer(bytearray(text[: rows * length]), dtype=torch.uint8).long().view(rows, -1)
    )


class Transformer(nn.Module):
    """The next byte from those before it: two layers of width 64."""

    def __init__(self, length: int, width: int = 64) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width, nhead=2, dim_feedforward=4 * width, batch_first=True, norm_first=True
        )
        self.symbols = nn.Embedding(SYMBOLS, width)
        self.places = nn.Embedding(length, width)
        self.layers = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.output = nn.Linear(width, SYMBOLS)

    def forward(self, rows: Tensor) -> Tensor:
        """The mean loss, in nats, over all bytes of these rows but their first ones."""
        given, wanted = rows[:, :-1], rows[:, 1:]
        length = given.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=rows.device)
        places = self.places(torch.arange(length, device=rows.device))
        states = self.layers(self.symbols(given) + places, mask=mask, is_causal=True)
        return nn.functional.cross_entropy(self.output(states).flatten(0, 1), wanted.flatten())
