"""Which calls of a transformers model can be followed truly, and which are refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from v4kit.errors import InputError


def check_mask(mask: Tensor, length: int) -> None:
    """Refuse zeros before ones: left padding changes what V4 computes."""
    real = mask.bool()
    if bool((~real[:, :-1] & real[:, 1:]).any()) or not bool(real[:, 0].all()):
        raise InputError(
            f"record can't follow left padding (a mask of shape {tuple(mask.shape)} over {length} "
            "new tokens has zeros before ones): V4 in transformers computes something else then. "
            "Use batches of equal length, or pad on the right and only read."
        )


def unknown_mask(mask: Tensor) -> InputError:
    """Return why attention is not recorded under a mask that is no row of zeros and ones."""
    return InputError(
        f"what a mask of shape {tuple(mask.shape)} hides is not known. Give a mask [batch, token] "
        "or none (a static cache makes its own), or record without: Record(attention=None)."
    )


def check_positions(given: Any, mask: Any, before: int, length: int) -> None:
    """Refuse positions that are not those that come next: intervals are counted by them."""
    if not isinstance(given, Tensor) or given.shape[-1] != length:
        return
    expected = torch.arange(before, before + length, device=given.device)
    differ = given.reshape(-1, length) != expected
    if isinstance(mask, Tensor) and mask.ndim == 2:
        differ &= mask[:, -length:].bool().to(given.device)
    if bool(differ.any()):
        raise InputError(
            f"record can't follow position_ids other than {before} … {before + length - 1}, which "
            "come next. Run documents one by one; packed or shifted ones are not told apart."
        )


def refuse_beams(*_: Any, **__: Any) -> None:
    """Refuse to let the rows of a cache change places."""
    raise InputError(
        "record can't follow a beam search: its beams change places. "
        "Sample or go greedily, or replay the result with model.read."
    )
