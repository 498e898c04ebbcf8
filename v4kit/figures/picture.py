"""A static picture of a trace, drawn with Pillow: what a saved notebook shows without a kernel."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from v4kit.core import DENSE, HASH, TOPK
from v4kit.figures.reading import Facts, Tally, facts, tally
from v4kit.figures.theme import LIGHT, Theme, rgb, scale
from v4kit.trace import Trace

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

LEFT, RIGHT, TOP, BOTTOM = 46, 150, 58, 46
"""Room around the map, in pixels."""
MAP = 768
"""Width of the map at most, in pixels."""
RAIL = 22
"""Width of the rail of shared experts."""

Write = Callable[..., None]


def picture(trace: Trace) -> bytes:
    """Return a PNG of the layer × expert map of a whole trace, in the light theme.

    Columns are experts, rows layers; hash-routed layers in a band of their own on top, dense ones
    grey, shared experts a rail at the right; the third colour of each scale is chance.
    """
    return draw(facts(trace), tally(trace))


def draw(known: Facts, counted: Tally) -> bytes:
    """Return the picture of counts that are already there."""
    from PIL import Image, ImageDraw

    cell = max(1, MAP // known.n_experts)
    height = max(6, min(30, 380 // len(known.kinds)))
    bands = _bands(known, height)
    size = (LEFT + cell * known.n_experts + RAIL + 8 + RIGHT, bands[-1][1] + BOTTOM)
    image = Image.new("RGB", size, LIGHT.paper)
    pen = ImageDraw.Draw(image)
    write = _writer(pen, LIGHT)
    n = int(counted.tokens.max(initial=0))
    write((LEFT, 10), f"Experts used by {n:,} tokens", 16)
    about = f"{_latin(known.model)} - {known.top_k} of {known.n_experts} experts per token"
    write((LEFT, 32), f"{about} - chance {known.chance:.2%}", 12, LIGHT.muted)
    for layer, top in _tops(bands, height):
        strip = _strip(counted, known, layer, cell, height - 1)
        image.paste(Image.fromarray(strip), (LEFT, top))
        if known.n_shared and known.kinds[layer] != DENSE:
            left = LEFT + cell * known.n_experts + 8
            pen.rectangle((left, top, left + RAIL - 1, top + height - 2), fill=LIGHT.shared)
        if height >= 10 or layer % 5 == 0:
            write((LEFT - 6, top + height / 2), str(layer), min(11, height + 3), anchor="rm")
    _frame(write, known, bands, cell)
    _legends(image, write, counted, known, LEFT + cell * known.n_experts + RAIL + 24)
    file = io.BytesIO()
    image.quantize(255).save(file, "PNG", optimize=True)
    return file.getvalue()


def caption(known: Facts, counted: Tally) -> str:
    """Return what the picture shows, in a sentence for those who can't see it; not escaped."""
    tokens = int(counted.tokens.max(initial=0))
    hashed = sum(kind == HASH for kind in known.kinds)
    band = f", {hashed} of them hash-routed and drawn apart" if hashed else ""
    return (
        f"Map of {len(known.kinds)} layers{band}, by {known.n_experts} experts: how many of "
        f"{tokens:,} tokens used each; chance is {known.chance:.2%} of the tokens."
    )


def _bands(known: Facts, height: int) -> list[tuple[list[int], int, str]]:
    """Return each band's layers, its lower edge and its heading."""
    edge, bands = TOP, []
    for hashed, text in ((True, "hash-routed layers"), (False, "learned layers")):
        layers = [i for i, kind in enumerate(known.kinds) if (kind == HASH) is hashed]
        if layers:
            edge += 18 + height * len(layers)
            bands.append((layers, edge, text))
    return bands


def _tops(bands: list[tuple[list[int], int, str]], height: int) -> list[tuple[int, int]]:
    """Return every layer with its upper edge."""
    return [
        (layer, edge - height * (len(layers) - place))
        for layers, edge, _ in bands
        for place, layer in enumerate(layers)
    ]


def _strip(counted: Tally, known: Facts, layer: int, cell: int, height: int) -> np.ndarray:
    """Return one layer's cells as pixels `[y, x, channel]`."""
    if known.kinds[layer] == DENSE:
        shape = (height, cell * known.n_experts, 1)
        return np.tile(np.array(rgb(LIGHT.dense), np.uint8), shape)
    counts, top, even = counted.count[layer], _most(counted, known, layer), _even(counted, known)
    steps = LIGHT.hash if known.kinds[layer] == HASH else LIGHT.learned
    places = scale(steps, even / top)
    stops = [place for place, _ in places]
    channels = [
        np.interp(counts / top, stops, [rgb(colour)[channel] for _, colour in places])
        for channel in range(3)
    ]
    row = np.stack(channels, axis=-1).round().astype(np.uint8).repeat(cell, axis=0)
    if cell >= 6:
        row[cell - 1 :: cell] = rgb(LIGHT.paper)
    return np.repeat(row[None], height, axis=0)


def _most(counted: Tally, known: Facts, layer: int) -> float:
    """Return the highest count among the layers of one kind."""
    same = [i for i, kind in enumerate(known.kinds) if kind == known.kinds[layer]]
    return float(counted.count[same].max(initial=0)) or 1.0


def _even(counted: Tally, known: Facts) -> float:
    return float(counted.tokens.max(initial=0)) * known.chance


def _frame(write: Write, known: Facts, bands: list[tuple[list[int], int, str]], cell: int) -> None:
    """Write headings and the expert axis."""
    before = TOP
    for _, edge, text in bands:
        write((LEFT, before + 4), text, 11, LIGHT.muted)
        before = edge
    step = max(1, 2 ** int(np.log2(max(known.n_experts / 8, 1))))
    for expert in range(0, known.n_experts, step):
        write((LEFT + cell * (expert + 0.5), before + 4), str(expert), 11, LIGHT.muted, anchor="mt")
    middle = LEFT + cell * known.n_experts / 2
    write((middle, before + 22), "expert", 12, anchor="mt")
    write((8, TOP + 2), "layer", 11, LIGHT.muted)
    if known.n_shared:
        left = LEFT + cell * known.n_experts + 8 + RAIL / 2
        write((left, before + 4), "shared", 11, LIGHT.muted, anchor="mt")


def _legends(image: Any, write: Write, counted: Tally, known: Facts, left: int) -> None:
    """Draw a colour bar for each kind of layer that there is."""
    from PIL import Image

    top, length = TOP + 18, 84
    for kind, steps, text in ((HASH, LIGHT.hash, "hash: tokens"), (TOPK, LIGHT.learned, "tokens")):
        layers = [i for i, k in enumerate(known.kinds) if k == kind]
        if not layers:
            continue
        most, even = _most(counted, known, layers[0]), _even(counted, known)
        places = scale(steps, even / most)
        ramp = np.linspace(1, 0, length)
        stops = [place for place, _ in places]
        channels = [np.interp(ramp, stops, [rgb(c)[i] for _, c in places]) for i in range(3)]
        bar = np.stack(channels, -1).round().astype(np.uint8)[:, None].repeat(12, axis=1)
        image.paste(Image.fromarray(bar), (left, top))
        write((left, top - 6), text, 11, anchor="lb")
        write((left + 18, top), f"{most:,.0f}", 11, anchor="lm")
        share = min(max(even / most, 0.18), 0.82)
        write((left + 18, top + length * (1 - share)), f"chance {even:,.1f}", 11, anchor="lm")
        write((left + 18, top + length), "0", 11, anchor="lm")
        top += length + 40


def _writer(pen: ImageDraw, theme: Theme) -> Write:
    """Return a function that writes text at a place with an anchor."""
    from PIL import ImageFont

    def write(
        at: tuple[float, float], text: str, size: int, fill: str = theme.ink, anchor: str = "lt"
    ) -> None:
        pen.text(at, text, fill=fill, font=ImageFont.load_default(size), anchor=anchor)

    return write


def _latin(text: str) -> str:
    """Return text in the letters that Pillow's own font has."""
    return text.encode("latin-1", "replace").decode("latin-1")
