"""Images kept as bytes, a quarter of what they would be as numbers."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Pixels:
    """Images as the inputs of a batch: those that are asked for come normalised by channel.

    Args:
        images: of shape (images, channels, rows, columns), 0 to 255.
        mean: of each channel, as a share of 255.
        spread: the same of the standard deviations.

    >>> pixels = Pixels(np.full((5, 1, 2, 2), 255, np.uint8), mean=[0.5], spread=[0.25])
    >>> pixels[1:3].shape, pixels[1:3].max().item()
    (torch.Size([2, 1, 2, 2]), 2.0)
    """

    def __init__(
        self, images: npt.NDArray[np.uint8], mean: Sequence[float], spread: Sequence[float]
    ) -> None:
        self.images = torch.from_numpy(images)
        self.mean = 255 * torch.tensor(mean).reshape(-1, 1, 1)
        self.spread = 255 * torch.tensor(spread).reshape(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        return (self.images[rows] - self.mean) / self.spread
