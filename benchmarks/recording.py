"""What recording costs: generation, reading a long prompt, and the first token of a fresh process.

Run `python -m benchmarks.recording`. All arms take turns in one process, on one thread.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.measure import Times, elsewhere, extra_memory, interleaved, ratio, table

PROMPT = "Once upon a time, there was a little girl who lived in a small house near the sea."


def load(options: argparse.Namespace) -> Any:
    """Return the tiny model, or the one in a folder, that never stops by itself."""
    import torch
    from transformers.utils import logging

    import v4kit

    torch.set_num_threads(1)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if options.model is None:
        model = v4kit.load()
    else:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        hf = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(options.tokenizer or options.model)
        model = v4kit.wrap(hf, tokenizer)
    model.stop_ids = frozenset()
    model.hf.generation_config.eos_token_id = None
    return model


def bare_loop(model: Any, ids: list[int], *, steps: int) -> list[int]:
    """Return greedy ids by the kit's own forward pass, nothing recorded."""
    ids, cache, fed = list(ids), None, 0
    for _ in range(steps):
        logits, cache = model.forward(ids[fed:], fed, cache, [])
        fed = len(ids)
        ids.append(int(logits[-1].argmax()))
    return ids


def upstream(model: Any, ids: list[int], *, steps: int) -> list[int]:
    """Return greedy ids by transformers' own `generate`."""
    import torch

    inputs = torch.tensor([ids])
    output = model.hf.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=steps,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
    )
    return list(map(int, output[0]))


def generation(model: Any, steps: int) -> dict[str, Callable[[], list[int]]]:
    """Return the ways to generate, by name; all return the same ids."""
    from v4kit import Record

    ids = model.read(PROMPT).tokens["id"].tolist()

    def recorded(routing: Any) -> Callable[[], list[int]]:
        def run() -> list[int]:
            trace = model.generate(ids, max_new_tokens=steps, record=Record(routing=routing))
            return list(map(int, trace.tokens["id"]))

        return run

    return {
        "transformers' generate": lambda: upstream(model, ids, steps=steps),
        "the kit's loop, not recorded": lambda: bare_loop(model, ids, steps=steps),
        "recorded: ids": recorded("ids"),
        "recorded: scores (default)": recorded("scores"),
        "recorded: full": recorded("full"),
    }


def prefill(model: Any, tokens: int) -> dict[str, Callable[[], object]]:
    """Return the ways to read a long prompt, by name."""
    import torch

    unit = model.read(PROMPT).tokens["id"].tolist()
    ids = (unit * (tokens // len(unit) + 1))[:tokens]

    def whole() -> object:
        with torch.inference_mode():
            return model.hf(torch.tensor([ids]), use_cache=True).logits

    def chunked() -> object:
        cache = None
        for start in range(0, tokens, 256):
            _, cache = model.forward(ids[start : start + 256], start, cache, [])
        return cache

    return {
        "transformers, whole": whole,
        "in chunks, not recorded": chunked,
        "in chunks, recorded": lambda: model.read(ids),
    }


def first_token(options: argparse.Namespace) -> None:
    """Print how long a fresh process takes to its first token."""
    started = time.perf_counter()
    import v4kit

    imported = time.perf_counter()
    if options.model is None:
        importlib.import_module("transformers.models.deepseek_v4.modeling_deepseek_v4")
    loading = time.perf_counter()
    model = load(options)
    loaded = time.perf_counter()
    next(model.stream(PROMPT))
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


def peak(options: argparse.Namespace) -> None:
    """Print the memory that one way to read a long prompt takes beyond the loaded model."""
    model = load(options)
    prefill(model, 300)["in chunks, recorded"]()
    work = prefill(model, options.prefill)[options.peak]
    print(json.dumps({"MB": extra_memory(work)}))


def arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="folder of a model; the tiny one if not given")
    parser.add_argument("--tokenizer", help="folder of its tokenizer")
    parser.add_argument("--steps", type=int, default=128, help="tokens to generate")
    parser.add_argument("--prefill", type=int, default=2_048, help="tokens of the long prompt")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--first-token", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def rows(times: dict[str, Times], baseline: str, tokens: int) -> list[list[str]]:
    """Return a line per arm: seconds, CPU seconds, tokens per second, ratio of CPU time."""
    return [
        [
            name,
            f"{statistics.median(taken.wall):.2f}",
            f"{statistics.median(taken.cpu):.2f}",
            f"{tokens / statistics.median(taken.cpu):,.0f}",
            ratio(times, name, baseline),
        ]
        for name, taken in times.items()
    ]


def main() -> None:
    """Print the tables."""
    options = arguments()
    if options.first_token:
        first_token(options)
        return
    if options.peak:
        peak(options)
        return
    again = [f"--{k}={v}" for k in ("model", "tokenizer", "prefill") if (v := getattr(options, k))]
    model = load(options)
    print(f"{model!r}\n{options.rounds} rounds, one thread, medians; ratios with quartiles\n")
    ways = generation(model, options.steps)
    results = {name: way() for name, way in ways.items()}
    if len(set(map(tuple, results.values()))) > 1:
        print("The ways to generate disagree on the tokens.", file=sys.stderr)
    times = interleaved(ways, rounds=options.rounds)
    header = [f"{options.steps} tokens", "seconds", "CPU s", "tokens/CPU s", "÷ not recorded"]
    print(table(header, rows(times, "the kit's loop, not recorded", options.steps)), "\n")
    reading = prefill(model, options.prefill)
    times = interleaved(reading, rounds=max(3, options.rounds // 2))
    lines = rows(times, "in chunks, not recorded", options.prefill)
    for line in lines:
        used = elsewhere("benchmarks.recording", *again, "--peak", line[0])
        line.append(f"{used['MB']:,.0f}")
    header = [f"prompt of {options.prefill:,}", *header[1:], "extra MB"]
    print(table(header, lines), "\n")
    starts = [elsewhere("benchmarks.recording", *again, "--first-token") for _ in range(3)]
    lines = [[step, f"{statistics.median(s[step] for s in starts):.2f}"] for step in starts[0]]
    print(table(["a fresh process", "seconds"], lines))


if __name__ == "__main__":
    main()
