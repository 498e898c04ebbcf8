"""From nothing to the first sampled token of the shipped model, or to a plan; fresh processes.

Run `python -m benchmarks.startup`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import statistics
import time

from benchmarks.measure import elsewhere, table

FLASH = "deepseek-ai/DeepSeek-V4-Flash"


def once() -> None:
    """Print how long each step takes in this process."""
    started = time.perf_counter()
    import v4kit

    imported = time.perf_counter()
    importlib.import_module("transformers.models.deepseek_v4.modeling_deepseek_v4")
    loading = time.perf_counter()
    model = v4kit.load()
    loaded = time.perf_counter()
    next(model.stream("Once upon a time, there was a little girl"))
    done = time.perf_counter()
    print(
        json.dumps(
            {
                f"import v4kit {v4kit.__version__}": imported - started,
                "import torch and transformers' class": loading - imported,
                "v4kit.load()": loaded - loading,
                "first token": done - loaded,
                "all": done - started,
            }
        )
    )


def plan() -> None:
    """Print how long the command for the large model takes, from the first import on."""
    started = time.perf_counter()
    from v4kit.cli import main

    with contextlib.redirect_stdout(io.StringIO()):
        main(["plan", FLASH])
    print(json.dumps({f"v4kit plan {FLASH}": time.perf_counter() - started}))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", choices=("tiny", "plan"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        once() if options.once == "tiny" else plan()
        return
    lines = []
    for what in ("tiny", "plan"):
        starts = [elsewhere("benchmarks.startup", "--once", what) for _ in range(options.rounds)]
        lines += [[step, f"{statistics.median(s[step] for s in starts):.2f}"] for step in starts[0]]
    print(table(["a fresh process", "seconds"], lines))


if __name__ == "__main__":
    main()
