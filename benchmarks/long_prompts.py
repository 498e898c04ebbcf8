"""Reading long prompts, recorded, beside transformers that records nothing.

Run `python -m benchmarks.long_prompts`. Every run is a process of its own, and the arms take turns.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.measure import elsewhere, table
from benchmarks.models import SIZES, build, some_ids

WHOLE, CHUNKED, RECORDED = "transformers, whole", "transformers, chunks of 256", "recorded"
CHUNK = 256


def ways(model: Any, ids: list[int]) -> dict[str, Callable[[], object]]:
    """Return the ways to read a prompt, by name."""
    import torch

    def whole() -> object:
        with torch.inference_mode():
            return model.hf(torch.tensor([ids], device=model.hf.device), use_cache=True).logits

    def chunked() -> object:
        cache = None
        with torch.inference_mode():
            for start in range(0, len(ids), CHUNK):
                part = torch.tensor([ids[start : start + CHUNK]], device=model.hf.device)
                cache = model.hf(part, past_key_values=cache, use_cache=True).past_key_values
        return cache

    return {WHOLE: whole, CHUNKED: chunked, RECORDED: lambda: model.read(ids)}


def once(options: argparse.Namespace) -> None:
    """Print what one way takes in this process: CPU seconds, and growth of its largest size."""
    import torch

    torch.set_num_threads(options.threads)
    model = build(options.model)
    ids = some_ids(model, options.once)
    for way in ways(model, ids[:300]).values():
        way()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    held = _start_on_gpu()
    started, clock = time.process_time(), time.perf_counter()
    ways(model, ids)[options.way]()
    taken = {
        "cpu": time.process_time() - started,
        "seconds": time.perf_counter() - clock,
        "MB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3,
        "all MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }
    if torch.cuda.is_available():
        taken["MB"] = (torch.cuda.max_memory_allocated() - held) / 1e6
    print(json.dumps(taken))


def _start_on_gpu() -> int:
    """Return the bytes in use on a GPU, from which its peak is counted on; 0 without one."""
    import torch

    if not torch.cuda.is_available():
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def compare(options: argparse.Namespace, tokens: int) -> list[list[str]]:
    """Return a line per way to read so many tokens."""
    arms = [RECORDED] if tokens > options.whole else [WHOLE, CHUNKED, RECORDED]
    taken: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    again = [f"--model={options.model}", f"--threads={options.threads}", f"--once={tokens}"]
    for _ in range(options.rounds):
        for arm in arms:
            taken[arm].append(elsewhere("benchmarks.long_prompts", *again, "--way", arm))
    rows = []
    for arm in arms:
        cpu, seconds, more, most = (
            statistics.median(run[key] for run in taken[arm])
            for key in ("cpu", "seconds", "MB", "all MB")
        )
        ratios = ["", ""]
        if WHOLE in taken:
            pairs = list(zip(taken[arm], taken[WHOLE], strict=True))
            ratios = [
                f"{statistics.median(a[key] / b[key] for a, b in pairs):.3f}"
                for key in ("cpu", "MB")
            ]
        rows.append(
            [f"{tokens:,}", arm, f"{seconds:,.1f}", f"{cpu:,.1f}", ratios[0], f"{more:,.0f}",
             ratios[1], f"{most:,.0f}"]
        )  # fmt: skip
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="long", choices=["tiny", *SIZES])
    parser.add_argument("--tokens", type=int, nargs="+", default=[4_096, 8_192, 32_768])
    parser.add_argument("--whole", type=int, default=8_192, help="most tokens to read whole")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        once(options)
        return
    print(f"{options.model}, {options.threads} threads, {options.rounds} rounds, medians\n")
    rows = [row for tokens in options.tokens for row in compare(options, tokens)]
    header = ["tokens", "reading", "seconds", "CPU s", "÷ whole", "MB more", "÷ whole", "MB in all"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
