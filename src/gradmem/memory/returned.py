"""Checks of what a user's policy or aggregate returned: its form, not its numbers.

To look at numbers would wait for an accelerator; where decisions are made in Python numbers,
`on_host` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradmem.errors import StepError


def check_entries(who: str, value: Any, kind: str, entries: Sequence[str]) -> None:
    """Refuse anything but a tuple of these entries.

    Raises:
        StepError: it is something else.
    """
    if isinstance(value, tuple) and len(value) == len(entries):
        return
    found = f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple) else "")
    raise StepError(f"{who} returned {found}; it must return gradmem.{kind}({', '.join(entries)})")


def check_tensor(who: str, name: str, value: Any, like: Tensor, dtype: torch.dtype | None) -> None:
    """Refuse anything but a tensor of the shape and device of `like`, of a type or any real one.

    Raises:
        StepError: it is something else.
    """
    if isinstance(value, Tensor):
        right = value.shape == like.shape and value.device == like.device
        if right and (value.dtype == dtype if dtype else not value.is_complex()):
            return
        found = f"{tuple(value.shape)} of {value.dtype} on {value.device}"
    else:
        found = repr(value)
    raise StepError(
        f"{who} returned {found} for {name}; it must be a tensor of shape {tuple(like.shape)}: "
        f"{'ledgers' if like.dim() == 1 else 'ledgers, slots'}; of {dtype or 'a real type'}, on "
        f"{like.device}"
    )
