"""Log-probability, entropy and argmax of next tokens, from logits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from v4kit.core import NONE

_SLICE = 64
"""Rows that are normalised at once; a vocabulary of 129,280 makes 33 MB of them."""


class Likelihood:
    """How likely each token of a document was, and what was expected instead.

    Values are those of the untempered distribution, in nats. `logprob` and `entropy` belong to the
    row of the token that came, `predicted` to the row before it.
    """

    def __init__(self) -> None:
        self._logprob: dict[int, float] = {}
        self._entropy: dict[int, float] = {}
        self._predicted: dict[int, int] = {}
        self._last: tuple[int, Tensor] | None = None

    @torch.no_grad()
    def add(self, row: int, logits: Tensor, following: list[int]) -> None:
        """Take the logits `[token, vocabulary]` of the rows from `row` on.

        `following` are the ids after each of these rows; the last may be missing, and is told to
        `sampled` when it is known.
        """
        for start in range(0, len(logits), _SLICE):
            logp = torch.log_softmax(logits[start : start + _SLICE].float(), dim=-1)
            known = torch.tensor(following[start : start + _SLICE], device=logp.device).long()
            came = logp[: len(known)].gather(-1, known.unsqueeze(-1)).squeeze(-1)
            # 0 · −∞ counts 0 in an entropy.
            entropy = -(logp.exp() * logp).nan_to_num(0.0).sum(-1)
            first = row + start
            self._predicted |= enumerate(logp.argmax(-1).tolist(), first)
            self._entropy |= enumerate(entropy.tolist(), first + 1)
            self._logprob |= enumerate(came.tolist(), first + 1)
            self._last = first + len(logp), logp[-1].clone()

    def sampled(self, token: int, row: int) -> None:
        """Take the token that came at `row`, if the row before was the last one added."""
        if self._last is not None and self._last[0] == row:
            self._logprob[row] = float(self._last[1][token])

    def columns(self, rows: int) -> dict[str, np.ndarray]:
        """Return the columns logprob, entropy and predicted over `rows` rows."""
        columns = {}
        for name, values, missing in (
            ("logprob", self._logprob, np.nan),
            ("entropy", self._entropy, np.nan),
            ("predicted", self._predicted, NONE),
        ):
            columns[name] = np.array([values.get(row, missing) for row in range(rows)])
        return columns
