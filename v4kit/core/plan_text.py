"""A plan as text for the console, and as a table for a notebook."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from v4kit.core.plan import MemoryPlan

Rows = list[list[str]]

PARTS = ["part", "parameters", "active", "GB"]
DEVICES = ["device", "layers", "weights", "cache", "working", "free"]
"""Headings; sizes of devices are in GB (10⁹ bytes)."""

UNITS = "GB on each device, as planned"
"""What the table of devices holds."""


def as_text(plan: MemoryPlan, *, width: int = 80) -> str:
    """Return the plan for a console of so many columns."""
    parts, devices = tables(plan)
    blocks = [
        _wrapped([plan.verdict, *notes(plan)], width),
        _wrapped(facts(plan), width),
        _columns([PARTS, *parts]),
        _columns([DEVICES, *devices]) + f"\n{UNITS}",
    ]
    return "\n\n".join(blocks)


def as_html(plan: MemoryPlan) -> str:
    """Return the plan as HTML without style of its own, so that it takes the page's theme."""
    parts, devices = tables(plan)
    lines = "".join(f"<p>{escape(line)}</p>" for line in (*notes(plan), *facts(plan)))
    return (
        f"<p><b>{escape(plan.verdict)}</b></p>{lines}{_table(PARTS, parts)}"
        f"{_table(DEVICES, devices)}<p>{UNITS}</p>"
    )


def facts(plan: MemoryPlan) -> list[str]:
    """Return what is known of the model, in lines."""
    size = plan.download
    download = "" if size is None else f", about {_short(size / 1e9)} GB to download"
    counted = f"{plan.parameters:,} parameters, {plan.active_parameters:,} active per token"
    return [
        f"{plan.model}: {counted}.",
        f"On disk {plan.stored}{download}; in memory {plan.precision}, {_gb(plan.bytes)} GB.",
        f"Config: {plan.source}.",
    ]


def notes(plan: MemoryPlan) -> list[str]:
    """Return advice, and the limit of speed."""
    found = list(plan.advice)
    speed = plan.most_tokens_per_second
    if speed is not None:
        most = f"{_short(speed)} tokens per second"
        if speed < 1:
            most = f"one token in {_short(1 / speed)} seconds"
        found.append(
            f"At most {most}, by bandwidth alone ({plan.bandwidths}): an upper limit, not what to "
            "expect."
        )
    return found


def tables(plan: MemoryPlan) -> tuple[Rows, Rows]:
    """Return the rows of parts and of devices, as text."""
    parts = [
        [part.name, f"{part.parameters:,}", f"{part.active:,}", _gb(part.bytes)]
        for part in plan.parts
    ]
    total = [f"{plan.parameters:,}", f"{plan.active_parameters:,}", _gb(plan.bytes)]
    devices = [
        [
            _device(one.device.key, one.device.name),
            stretches(one.layers),
            *map(_gb, (one.weights, one.cache, one.working, one.left)),
        ]
        for one in plan.placements
    ]
    return [*parts, ["all", *total]], devices


def stretches(layers: Sequence[int]) -> str:
    """Return layers as a text such as "0–9, 12"."""
    found = []
    for _, group in groupby(enumerate(layers), lambda pair: pair[1] - pair[0]):
        run = [layer for _, layer in group]
        found.append(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}")
    return ", ".join(found) or "–"


def _device(key: str, name: str) -> str:
    return f"{key} {name}" if key.isdigit() else name


def _gb(size: int) -> str:
    return f"{size / 1e9:,.2f}"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:,.2g}"


def _wrapped(lines: Sequence[str], width: int) -> str:
    return "\n".join(textwrap.fill(line, max(width, 40), subsequent_indent="  ") for line in lines)


def _columns(rows: Rows) -> str:
    """Return rows with aligned columns, the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Rows) -> str:
    cells = "".join(f"<th scope='col'>{escape(name)}</th>" for name in head)
    lines = "".join(
        "<tr>" + f"<th scope='row'>{escape(first)}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in others) + "</tr>"
        for first, *others in rows
    )  # fmt: skip
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>"
