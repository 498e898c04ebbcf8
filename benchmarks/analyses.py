"""How fast a long trace is counted, and how exactly a logit is split into its parts.

Run `python -m benchmarks.analyses`. The default is 200,000 tokens of DeepSeek-V4-Flash.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import numpy as np

from benchmarks.measure import interleaved, ratio, table
from benchmarks.trace_store import random_trace
from v4kit import analysis
from v4kit.trace import Trace

BASELINE = "one bincount over all ids"
DOCUMENTS, LABELS = 200, 4
WORDS = 2_000


def labelled(options: argparse.Namespace) -> Trace:
    """Return a random trace of labelled documents with a small vocabulary."""
    trace = random_trace(options.tokens, options)
    document = np.arange(len(trace)) * DOCUMENTS // len(trace)
    ids = np.random.default_rng(1).integers(0, WORDS, len(trace)).astype(np.int32)
    labels = [f"label {d % LABELS}" for d in document]
    trace.tokens = trace.tokens.assign(document=document.astype(np.int32), label=labels, id=ids)
    return trace


def tasks(trace: Trace) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    ids = trace.routing["experts"].to_numpy()
    learned = np.flatnonzero(trace.routing["kind"].to_numpy() == "topk").tolist()
    return {
        BASELINE: lambda: np.bincount(ids.ravel(), minlength=256),
        "expert_load": lambda: analysis.expert_load(trace),
        "coactivation, all layers": lambda: analysis.coactivation(trace),
        "domain_specialization, 100 shuffles": lambda: analysis.domain_specialization(trace),
        "repetition": lambda: analysis.repetition(trace),
        "paths, three layers": lambda: analysis.paths(trace, learned[:3]),
        "hash_audit": lambda: analysis.hash_audit(trace),
        "vocabulary_specialization, 1 shuffle": lambda: analysis.vocabulary_specialization(
            trace, permutations=1
        ),
    }


def residuals(tokens: int) -> list[list[str]]:
    """Return rows of the largest and the median residual over some tokens, by model and dtype."""
    import torch

    import v4kit
    from benchmarks.models import build
    from v4kit.experiments import attribution

    rows = []
    for name in ("tiny", "50m", "long"):
        for dtype in (torch.float32, torch.bfloat16):
            made = build(name)
            model = v4kit.wrap(made.hf.to(dtype), made.tokenizer)
            trace = model.generate([0, 5, 9], max_new_tokens=tokens, temperature=1.0, seed=0)
            found = [float(attribution(model, trace, row)["residual"]) for row in range(tokens)]
            told = (f"{max(found):.1e}", f"{statistics.median(found):.1e}")
            rows.append([f"{name}, {str(dtype).removeprefix('torch.')}", *told])
    return rows


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("tokens", 200_000), ("layers", 43), ("slots", 6), ("experts", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--split", type=int, default=200, help="tokens whose logits are split")
    options = parser.parse_args()
    times = interleaved(tasks(labelled(options)), rounds=options.rounds)
    rows = [
        [name, f"{statistics.median(one.cpu):.2f}", f"{min(one.cpu):.2f}",
         ratio(times, name, BASELINE)]
        for name, one in times.items()
    ]  # fmt: skip
    print(table(["analysis", "CPU seconds", "at best", "ratio"], rows))
    print()
    header = [f"attribution over {options.split} tokens", "largest residual", "median"]
    print(table(header, residuals(options.split)))


if __name__ == "__main__":
    main()
