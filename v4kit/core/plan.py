"""What loading a model will need, and where each of its layers will go."""

from __future__ import annotations

from dataclasses import dataclass, field

from v4kit.core.plan_text import as_html, as_text


@dataclass(frozen=True, slots=True)
class Part:
    """All parameters of one kind."""

    name: str
    """What they are: "experts", "attention", "norms", …"""
    parameters: int
    """How many."""
    active: int
    """How many of them one token uses."""
    bytes: int
    """Memory that they take, scales and buffers included."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device that a plan may use."""

    key: str
    """"0" and up for GPUs, "cpu" or "disk"."""
    name: str
    """What it is called."""
    memory: int
    """Bytes that are free."""
    limit: int
    """Bytes of weights that may go there."""
    bandwidth: float
    """Bytes per second that it can read its memory with; of "disk", that it can be read with."""
    link: float = 0.0
    """Bytes per second from the CPU's memory to it; 0 where nothing lies between."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What goes onto one device."""

    device: Device
    """The device."""
    layers: tuple[int, ...]
    """Decoder layers on it."""
    weights: int
    """Bytes of parameters and buffers."""
    cache: int
    """Bytes that the cache of its layers takes at the planned context."""
    working: int
    """Bytes that a pass needs beside them, estimated; 0 where nothing is computed."""

    @property
    def left(self) -> int:
        """Bytes that stay free; negative if it does not fit."""
        return self.device.memory - self.weights - self.cache - self.working


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What loading a model will need, and where each of its layers will go.

    Counted from the config alone; nothing of the weights was read.
    """

    model: str
    """Name of the model."""
    source: str
    """Where its config came from."""
    stored: str
    """Precision on disk."""
    precision: str
    """Precision in memory."""
    parts: tuple[Part, ...]
    """Parameters by kind."""
    device_map: dict[str, int | str]
    """Module → device, as transformers will place them."""
    placements: tuple[Placement, ...]
    """Devices in the order in which they are filled."""
    context: int
    """Tokens that the cache is planned for."""
    chunk: int
    """Tokens of a prompt that are read at once."""
    longest: int
    """Tokens of context that would fit; 0 if not one does."""
    fits: bool
    """Whether everything lies in memory, nothing on disk, and leaves room to compute."""
    verdict: str
    """What will happen, in words."""
    advice: tuple[str, ...] = field(default=())
    """What to change or to know."""
    most_tokens_per_second: float | None = None
    """Upper limit set by bandwidth alone; what is really reached lies far below."""
    bandwidths: str = ""
    """The bandwidths that the limit goes by, in words."""
    download: int | None = None
    """Bytes of the checkpoint's files, which are known or counted; None for a local folder."""

    @property
    def parameters(self) -> int:
        """Number of parameters, in all."""
        return sum(part.parameters for part in self.parts)

    @property
    def active_parameters(self) -> int:
        """Number of parameters that one token uses, the embedding table included."""
        return sum(part.active for part in self.parts)

    @property
    def bytes(self) -> int:
        """Memory that parameters, scales and buffers take."""
        return sum(part.bytes for part in self.parts)

    def __repr__(self) -> str:
        return (
            f"MemoryPlan({self.model} · {self.parameters / 1e9:.2f} B parameters · "
            f"{self.bytes / 1e9:,.1f} GB in {self.precision} · "
            f"{'fits' if self.fits else 'does not fit'})"
        )

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)
