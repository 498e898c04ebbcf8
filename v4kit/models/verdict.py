"""What a plan means, in plain words: what fits, what does not, what to change."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from v4kit.arch import Architecture
from v4kit.core.plan import Part, Placement
from v4kit.models.hardware import GB


@dataclass(frozen=True, slots=True)
class Findings:
    """What was counted and placed."""

    parts: tuple[Part, ...]
    """Parameters by kind."""
    placements: tuple[Placement, ...]
    """Devices that are used."""
    context: int
    """Tokens asked for."""
    longest: int
    """Tokens that would fit."""
    layers: int
    """Decoder layers."""
    stored: str
    """Precision on disk."""
    stored_bytes: int | None
    """Bytes as stored, where loading makes the weights larger; else None."""
    counts: bool = True
    """Whether the weights could be counted in the precision that they are stored in."""

    @property
    def gpus(self) -> tuple[Placement, ...]:
        """What lies on GPUs."""
        return tuple(one for one in self.placements if one.device.key.isdigit())

    def on(self, key: str) -> Placement | None:
        """Return what lies on a device, if anything does."""
        found = (one for one in self.placements if one.device.key == key and one.weights)
        return next(found, None)

    @property
    def waiting(self) -> tuple[Placement, ...]:
        """What is computed elsewhere than it lies: in memory beside GPUs, and on disk."""
        waits = [self.on("disk"), self.on("cpu") if self.gpus else None]
        return tuple(one for one in waits if one is not None)

    @property
    def link(self) -> float:
        """Bytes per second to the GPU that computes what waits; 0 where nothing lies between."""
        return self.gpus[0].device.link if self.gpus else 0.0

    @property
    def fits(self) -> bool:
        """Whether everything lies in memory, and leaves room to compute."""
        return self.on("disk") is None and all(one.left >= 0 for one in self.placements)

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return sum(one.weights for one in self.placements)

    def advice(self) -> tuple[str, ...]:
        """Return what to know or to change."""
        found = []
        if not self.counts:
            found.append(
                f"{self.stored} weights are counted as if they were dequantized, the most that "
                "they can take: how transformers keeps them is not planned."
            )
        if self.stored_bytes is not None:
            found.append(
                f"The files hold {self.stored} ({gb(self.stored_bytes)}). Without a GPU of compute "
                "capability 8.9 (RTX 4090, H100 or later), transformers makes "
                f"{gb(self.weights)} of them."
            )
        if not self.fits and not self.longest:
            found.append(
                "More or larger GPUs keep all layers in their memory; a serving engine "
                "(vLLM, SGLang) can split them over several machines."
            )
        if self.waiting and self.gpus:
            size, disk = sum(one.weights for one in self.waiting), self.on("disk")
            read = f", {gb(disk.weights)} of them from disk" if disk else ""
            found.append(f"Every token takes {gb(size)} to a GPU{read}.")
        return tuple(found)


def judge(found: Findings) -> str:
    """Return in a sentence what will happen."""
    where = _names(found.gpus) or "the CPU"
    disk, memory = found.on("disk"), found.on("cpu") if found.gpus else None
    tight = min(found.placements, key=lambda one: one.left)
    if disk is not None:
        return (
            f"Does not fit into memory: {len(disk.layers)} of {found.layers} layers stay on disk "
            f"({gb(disk.weights)}) and are read for every token."
        )
    if tight.left < 0 and found.longest:
        return (
            f"Fits on {where}, but not with {found.context:,} tokens of context: the fullest "
            f"device has {gb(tight.device.memory - tight.weights)} beside its weights, enough for "
            f"prompts up to about {found.longest:,} tokens."
        )
    if tight.left < 0:
        return (
            f"Does not fit on {where}: {tight.device.name} has {gb(tight.device.memory)}, and "
            f"{gb(tight.weights + tight.cache + tight.working)} would go there."
        )
    if memory is not None:
        return (
            f"Runs on {where} with help of the CPU's memory: {len(memory.layers)} of "
            f"{found.layers} layers ({gb(memory.weights)}) wait there and travel to the GPU for "
            "every token."
        )
    return (
        f"Fits on {where}: the fullest device keeps {gb(tight.left)} free with "
        f"{found.context:,} tokens of context; up to about {found.longest:,} would fit."
    )


def most_tokens_per_second(found: Findings, architecture: Architecture) -> float | None:
    """Return how many tokens a second the bandwidth allows at most; nothing else is counted.

    A token reads all weights but the embedding table, and of the experts those that are used;
    layers that wait elsewhere travel whole.
    """
    total = sum(part.bytes for part in found.parts)
    used = architecture.top_k / architecture.n_experts
    share = {"experts": used, "embedding": 0.0}
    read = sum(part.bytes * share.get(part.name, 1.0) for part in found.parts)
    seconds = 0.0
    for one in found.placements:
        if one in found.waiting:
            seconds += one.weights / min(one.device.bandwidth, found.link or one.device.bandwidth)
        else:
            seconds += one.weights * read / total / one.device.bandwidth
    return 1 / seconds if seconds else None


def bandwidths(found: Findings) -> str:
    """Return in words which bandwidths a limit of speed goes by."""
    told = [
        f"{one.device.name} {one.device.bandwidth / GB:,.0f} GB/s"
        for one in found.placements
        if one not in found.waiting
    ]
    if found.waiting and found.link:
        told.append(f"PCIe {found.link / GB:.0f} GB/s")
    disk = found.on("disk")
    if disk is not None:
        told.append(f"disk {disk.device.bandwidth / GB:.0f} GB/s")
    return ", ".join(dict.fromkeys(told))


def gb(size: float) -> str:
    """Return bytes as GB (10⁹), in three digits or so."""
    number = size / GB
    return f"{number:,.0f} GB" if number >= 100 else f"{number:.3g} GB"


def _names(placements: tuple[Placement, ...]) -> str:
    counted = Counter(one.device.name for one in placements)
    return " + ".join(f"{count} × {name}" for name, count in counted.items())
