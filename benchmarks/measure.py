"""Measuring: arms that take turns, memory in processes of their own, and small tables."""

from __future__ import annotations

import gc
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Times:
    """What one arm took in every round."""

    wall: tuple[float, ...]
    """Seconds by the clock."""
    cpu: tuple[float, ...]
    """Seconds of all the process's threads."""


def interleaved(arms: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, Times]:
    """Return the times of arms that take turns, so that all of them see the same machine.

    A first round warms up and is not counted; each round begins with another arm.
    """
    wall: dict[str, list[float]] = {name: [] for name in arms}
    cpu: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for number in range(rounds + 1):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            gc.collect()
            started, worked = time.perf_counter(), time.process_time()
            arms[name]()
            if number:
                cpu[name].append(time.process_time() - worked)
                wall[name].append(time.perf_counter() - started)
    return {name: Times(tuple(wall[name]), tuple(cpu[name])) for name in arms}


def ratio(times: dict[str, Times], arm: str, baseline: str, *, clock: str = "cpu") -> str:
    """Return the median over the rounds of one arm's time over another's, and its quartiles."""
    pairs = zip(getattr(times[arm], clock), getattr(times[baseline], clock), strict=True)
    ratios = sorted(a / b for a, b in pairs)
    if len(ratios) < 4:
        return f"{statistics.median(ratios):.2f}"
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def paired(times: dict[str, Times], arm: str, baseline: str) -> str:
    """Return the median over the rounds of one arm's CPU time over another's, and its interval.

    The interval is a percentile bootstrap of the median over the rounds' pairs, 95 %.
    """
    ratios = [a / b for a, b in zip(times[arm].cpu, times[baseline].cpu, strict=True)]
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2_000))
    return f"{statistics.median(ratios):.3f} [{medians[49]:.3f}–{medians[-50]:.3f}]"


def extra_memory(work: Callable[[], object]) -> float:
    """Return the most memory in MB that some work took beyond what the process had before it.

    Where the system can't be asked for the peak since now, it is that since the process began.
    """
    gc.collect()
    before, _ = _memory()
    if _RESET.exists():
        _RESET.write_text("5")
    work()
    return _memory()[1] - before


def _memory() -> tuple[float, float]:
    """Return the memory in use, and the most there was, in MB."""
    if not _STATUS.exists():
        import resource

        unit = 1e6 if sys.platform == "darwin" else 1e3
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        return peak, peak
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    now, most = (float(lines[key].split()[0]) / 1e3 for key in ("VmRSS", "VmHWM"))
    return now, most


def elsewhere(module: str, *arguments: object) -> dict[str, float]:
    """Return the JSON that a fresh process prints; memory is measured there, where nothing was."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    ruler = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [header, ruler, *rows]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    )
