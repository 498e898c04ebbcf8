"""An edit that uses the experts of another run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from v4kit.arch import Architecture, Family
from v4kit.core import NONE
from v4kit.errors import InputError
from v4kit.intervene.base import Edit
from v4kit.intervene.choice import Choice


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replay(Edit):
    """The experts of another run, position by position."""

    trace: Any
    """Where they come from."""
    source: Tensor
    """Its experts `[position, layer, slot]`, −1 where it has none."""
    weights: Tensor | None = None
    """Its weights `[position, layer, slot]`; None: those of the current pass are used."""

    @property
    def reranks(self) -> bool:
        """Whether it needs a layer that chooses by score."""
        return False

    def check(self, architecture: Architecture, family: Family) -> None:  # noqa: ARG002 - all alike
        """Refuse a trace of another model."""
        theirs = self.trace.meta["architecture"]
        given = (len(theirs["layers"]), theirs["top_k"], theirs["n_experts"])
        own = (architecture.n_layers, architecture.top_k, architecture.n_experts)
        if given != own:
            raise InputError(
                "The trace that is replayed has {} layers of {} of {} experts, this model ".format(
                    *given
                )
                + "{} of {} of {}. Replay one of the same model.".format(*own)
            )

    def data(self) -> dict[str, Any]:
        """Return the edit as JSON data, for a trace's meta."""
        told = {name: getattr(self, name) for name in ("layers", "tokens")}
        plain = {n: list(v) if isinstance(v, tuple) else v for n, v in told.items()}
        more = {"of": self.trace.meta.get("model"), "weights": self.weights is not None}
        return {"edit": "replay", **plain, **more}

    def choose(self, choice: Choice, rows: Tensor) -> Choice:
        """Return what a layer chooses by, with the other run's experts above all."""
        told, known = self._told(choice, rows)
        wanted = torch.zeros_like(choice.barred).scatter(-1, told.clamp(min=0), value=True)
        return choice.prefer(wanted, known)

    def weigh(self, choice: Choice, rows: Tensor) -> Choice:
        """Return a choice that was made, with the other run's weights if they are wanted."""
        if self.weights is None:
            return choice
        told, _ = self._told(choice, rows)
        known = rows & (told != NONE).all(-1)
        theirs = self.weights[self._places(choice), choice.layer].to(choice.weights.device)
        by_expert = torch.full_like(choice.scores, torch.nan, dtype=theirs.dtype)
        by_expert = by_expert.scatter(-1, told.clamp(min=0), theirs)
        weights = by_expert.gather(-1, choice.experts)
        own = choice.weights.to(weights.dtype)
        return choice.weighed(torch.where(weights.isnan(), own, weights), known)

    def _told(self, choice: Choice, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the other run's experts `[token, slot]`, and where it has some `[token]`."""
        positions = choice.positions.to(self.source.device)
        missing = positions[rows.cpu() & (positions >= len(self.source))]
        if len(missing):
            raise InputError(
                f"The trace that is replayed has {len(self.source):,} positions, but position "
                f"{int(missing[0]):,} is read. Replay a longer one, or limit tokens=(start, stop)."
            )
        told = self.source[self._places(choice), choice.layer].to(choice.experts.device)
        # The same experts stay as they are, also where a table names one twice.
        same = (told.sort(-1).values == choice.experts.sort(-1).values).all(-1)
        return told, rows & (told != NONE).all(-1) & ~same

    def _places(self, choice: Choice) -> Tensor:
        return choice.positions.to(self.source.device).clamp(max=len(self.source) - 1)
