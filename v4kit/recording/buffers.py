"""Rows of tensors that grow by blocks where they are made, and leave in one copy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BLOCK = 256
"""Rows of a block."""


class Rows:
    """Rows by variable name; appending copies, so nothing pins the model's own tensors."""

    def __init__(self) -> None:
        self._blocks: dict[str, list[Tensor]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    # Blocks outlive the pass that begins them, which may be in inference mode when the next is not.
    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def append(self, values: dict[str, Tensor]) -> None:
        """Append rows; all values have the same first axis `[token, …]`."""
        count = 0
        for name, value in values.items():
            count = len(value)
            blocks = self._blocks.setdefault(name, [])
            done = 0
            while done < count:
                used = self._length + done - BLOCK * (len(blocks) - 1)
                if not blocks or used == BLOCK:
                    blocks.append(value.new_empty((BLOCK, *value.shape[1:])))
                    used = 0
                take = min(count - done, BLOCK - used)
                blocks[-1][used : used + take].copy_(value[done : done + take])
                done += take
        self._length += count

    def last(self, name: str) -> np.ndarray:
        """Return the last row of a variable."""
        used = self._length - BLOCK * (len(self._blocks[name]) - 1)
        return self._blocks[name][-1][used - 1].cpu().numpy()

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all rows `[token, …]` by variable name, copied off the device at once each."""
        return {
            name: torch.cat(blocks)[: self._length].cpu().numpy()
            for name, blocks in self._blocks.items()
        }
