"""How fast and how large: a long trace written, opened and drawn, beside numpy's own files.

Run `python -m benchmarks.trace_store`. The default is 100,000 tokens of DeepSeek-V4-Flash.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import elsewhere, extra_memory, interleaved, ratio, table
from v4kit import figures, open_trace
from v4kit.trace import Trace, make_trace
from v4kit.trace.store import TraceWriter

DOCUMENT = 500
"""Tokens of a document."""
FLUSH = 4_096
"""Tokens between two flushes."""
SHAPE = ("tokens", "layers", "slots", "experts")
NUMPY = ("experts", "weights", "scores", "margin", "runner_up", "bias_flips")


def random_trace(
    tokens: int, options: argparse.Namespace, *, seed: int = 0, document: int | None = None
) -> Trace:
    """Return random routing; real routing is less random, and its file smaller."""
    rng = np.random.default_rng(seed)
    layers, k, n = options.layers, options.slots, options.experts
    # Odd steps from a random start never meet, so that a token's experts differ.
    start, step = rng.integers(0, n, (2, tokens, layers, 1), dtype=np.int16)
    experts = (start + (step | 1) * np.arange(k, dtype=np.int16)) % n
    arrays = {
        "experts": experts,
        "weights": rng.random((tokens, layers, k), dtype=np.float32),
        "scores": rng.random((tokens, layers, k), dtype=np.float32),
        "margin": rng.random((tokens, layers), dtype=np.float32),
        "runner_up": rng.integers(0, n, (tokens, layers), dtype=np.int16),
        "bias_flips": rng.integers(0, 3, (tokens, layers), dtype=np.int16),
    }
    rows = np.arange(tokens)
    columns = {
        "id": rng.integers(0, 129_280, tokens),
        "text": [f"token{number} " for number in rng.integers(0, 9_999, tokens)],
        "position": rows % DOCUMENT,
        "document": rows // DOCUMENT if document is None else np.full(tokens, document),
        "logprob": -rng.random(tokens),
        "entropy": rng.random(tokens),
        "predicted": rng.integers(0, 129_280, tokens),
    }
    kinds = ["hash"] * min(3, layers) + ["topk"] * max(0, layers - 3)
    architecture = {
        "family": "deepseek_v4",
        "n_experts": n,
        "top_k": k,
        "n_shared": 1,
        "weight_sum": 1.5,
        "layers": [{"routing": kind, "attention": "csa"} for kind in kinds],
    }
    return make_trace(columns, arrays, {"model": "random", "architecture": architecture})


def write_growing(documents: Iterator[Trace], folder: Path) -> None:
    """Write documents one by one, as `read_many(…, save_to=…)` does."""
    shutil.rmtree(folder, ignore_errors=True)
    unflushed = 0
    with TraceWriter(folder) as writer:
        for document in documents:
            writer.append(document)
            unflushed += len(document)
            if unflushed >= FLUSH:
                writer.flush()
                unflushed = 0


def pieces(trace: Trace) -> Iterator[Trace]:
    """Yield the documents of a trace."""
    for start in range(0, len(trace), DOCUMENT):
        yield trace[start : start + DOCUMENT]


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """Return all arrays of numpy's file."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def read_rows(file: Path, rows: int | None) -> Trace:
    """Return the first rows of a trace, or all, read into memory."""
    trace = open_trace(file)[:rows]
    trace.routing.load()
    return trace


def tasks(trace: Trace, scratch: Path) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name; the files that reading needs are there after one round."""
    arrays: dict[str, Any] = {name: trace.routing[name].to_numpy() for name in NUMPY}
    file, folder, npz = scratch / "a.v4trace", scratch / "folder", scratch / "a.npz"
    return {
        "numpy.savez": lambda: np.savez(npz, **arrays),
        "save": lambda: trace.save(file),
        "write as it grows": lambda: write_growing(pieces(trace), folder),
        "numpy.load": lambda: load_npz(npz),
        "open": lambda: open_trace(file),
        "open and read all": lambda: read_rows(file, None),
        "open and read 1,000 tokens": lambda: read_rows(file, 1_000),
        "open and draw the map": lambda: figures.routing_map(open_trace(file)),
        "open and draw the load": lambda: figures.expert_load(open_trace(file)),
    }


def peak(task: str, scratch: Path, options: argparse.Namespace) -> None:
    """Print the memory that one task takes beyond what it is given; runs in its own process."""
    work: Callable[[], object]
    if task == "write as it grows":
        count = -(-options.tokens // DOCUMENT)
        made = (random_trace(DOCUMENT, options, seed=i, document=i) for i in range(count))
        write_growing((random_trace(DOCUMENT, options) for _ in range(2)), scratch / "warm")

        def work() -> None:
            write_growing(made, scratch / "folder")

    else:
        reading = task.startswith("open") or task == "numpy.load"
        trace = random_trace(1_000 if reading else options.tokens, options)
        random_trace(10, options).save(scratch / "warm.v4trace")
        figures.routing_map(open_trace(scratch / "warm.v4trace"))
        work = tasks(trace, scratch)[task]
    print(json.dumps({"MB": extra_memory(work)}))


def arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--layers", type=int, default=43)
    parser.add_argument("--slots", type=int, default=6)
    parser.add_argument("--experts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where to write; a temporary folder if not given")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(options: argparse.Namespace, scratch: Path) -> Iterator[list[str]]:
    """Yield a line of the table per task."""
    times = interleaved(
        tasks(random_trace(options.tokens, options), scratch), rounds=options.rounds
    )
    folder = (file for file in (scratch / "folder").rglob("*") if file.is_file())
    sizes = {
        "numpy.savez": (scratch / "a.npz").stat().st_size,
        "save": (scratch / "a.v4trace").stat().st_size,
        "write as it grows": sum(file.stat().st_size for file in folder),
    }
    shape = [f"--{name}={getattr(options, name)}" for name in SHAPE]
    for task, taken in times.items():
        used = elsewhere("benchmarks.trace_store", *shape, "--peak", task, "--folder", scratch)
        baseline = "numpy.savez" if task in sizes else "numpy.load"
        yield [
            task,
            f"{statistics.median(taken.wall):.2f}",
            f"{statistics.median(taken.cpu):.2f}",
            ratio(times, task, baseline),
            f"{sizes[task] / 1e6:,.0f}" if task in sizes else "",
            f"{used['MB']:,.0f}",
        ]


def main() -> None:
    """Print the table."""
    options = arguments()
    if options.peak:
        peak(options.peak, Path(options.folder), options)
        return
    if options.folder is not None:
        Path(options.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        lines = list(measured(options, Path(scratch)))
    print(
        f"{options.tokens:,} random tokens × {options.layers} layers × {options.slots} slots of "
        f"{options.experts} experts; medians of {options.rounds} rounds\n"
    )
    print(table(["task", "seconds", "CPU s", "÷ numpy", "file MB", "extra MB"], lines))


if __name__ == "__main__":
    main()
