"""Draws the next token, the same one for the same seed."""

from __future__ import annotations

import secrets

import torch
from torch import Tensor

from v4kit.engines.base import Sampling


class Sampler:
    """Draws tokens from logits; the draw is made on the CPU, so that a seed holds everywhere."""

    def __init__(self, sampling: Sampling) -> None:
        self.seed = secrets.randbits(31) if sampling.seed is None else int(sampling.seed)
        self._sampling = sampling
        self._generator = torch.Generator().manual_seed(self.seed)

    def draw(self, logits: Tensor) -> int:
        """Return a token id drawn from float32 logits `[vocabulary]`."""
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        # Below the maximum, so that a temperature near 0 sharpens instead of overflowing.
        below = (logits - logits.max()).double().cpu()
        probabilities = torch.softmax(below / self._sampling.temperature, dim=-1)
        if self._sampling.top_p < 1:
            probabilities = self._nucleus(probabilities)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))

    def _nucleus(self, probabilities: Tensor) -> Tensor:
        """Return the probabilities with everything outside the smallest top-p set at 0."""
        ordered, ids = probabilities.sort(descending=True, stable=True)
        outside = ordered.cumsum(-1) - ordered >= self._sampling.top_p
        return torch.zeros_like(probabilities).scatter(-1, ids, ordered.masked_fill(outside, 0.0))
