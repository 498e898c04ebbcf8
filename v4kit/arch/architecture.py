"""A model's layers and experts, as data."""

from __future__ import annotations

from dataclasses import dataclass

from v4kit.attention import View
from v4kit.core import DENSE, HASH


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer."""

    index: int
    """Position among all decoder layers, from 0."""
    routing: str
    """"hash", "topk" or "dense"."""
    attention: str
    """"sliding", "csa", "hca", "dsa", "full" or "other"."""
    window: int | None = None
    """Single tokens that a query sees, itself included; None: all tokens up to itself."""
    rate: int = 0
    """Tokens from one compressed block to the next; 0: the layer has no blocks."""
    span: int = 0
    """Tokens that are pooled into one block, those before its own included."""
    chosen: int | None = None
    """Most blocks (CSA) or tokens (DSA) that an indexer lets a query see; None: no indexer."""

    @property
    def view(self) -> View:
        """What its attention can see, for arithmetic on intervals."""
        return View(self.window, self.rate, self.span)


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a recorder must know of a model; built from its config alone."""

    family: str
    """transformers' `model_type`."""
    layers: tuple[Layer, ...]
    """All decoder layers by index."""
    n_experts: int
    """Routed experts of a layer."""
    top_k: int
    """Experts chosen for one token in one layer."""
    n_shared: int
    """Shared experts of a layer, always on; 0 where there are none."""
    vocabulary: int
    """Number of token ids."""
    context: int
    """Longest sequence, in tokens."""
    normalized: bool = True
    """Whether a token's weights are its chosen experts' scores divided by their sum."""
    scale: float = 1.0
    """What the weights are multiplied by in the end (`routed_scaling_factor`)."""
    n_groups: int = 1
    """Groups that the experts stand in; a token chooses from the best groups only."""
    top_groups: int = 1
    """Groups that a token may choose from."""
    heads: int = 1
    """Attention heads of a layer."""
    sinks: bool = False
    """Every head has a learned sink, which takes the share of attention that no token gets."""

    @property
    def weight_sum(self) -> float | None:
        """What a token's weights add up to; None where it varies."""
        return self.scale if self.normalized else None

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    @property
    def routed(self) -> tuple[int, ...]:
        """Indices of the layers that have a router."""
        return tuple(layer.index for layer in self.layers if layer.routing != DENSE)

    @property
    def hash_layers(self) -> tuple[int, ...]:
        """Indices of the layers whose experts follow from the token id."""
        return tuple(layer.index for layer in self.layers if layer.routing == HASH)

    def __repr__(self) -> str:
        return (
            f"Architecture({self.family} · {self.n_layers} layers · {self.n_experts} experts · "
            f"top-{self.top_k} · {self.context:,} tokens of context)"
        )
