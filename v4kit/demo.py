"""The main job in one command: load the small model, let it write, see which experts fire."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from v4kit.core import TOPK
from v4kit.trace import Trace, concat

if TYPE_CHECKING:
    from v4kit.engines import Model

PROMPTS = {
    "narrative": "And the Lord said to Moses, ",
    "python": "    def __init__(self",
    "verse": "春夜\n李白\n",
}
"""Label → prompt, from three of the domains that the small model knows."""
_WIDTH = 72


def demo(report: Path, *, max_new_tokens: int = 48) -> Trace:
    """Print what the small model writes in three domains and which experts fire; write a report.

    Returns the trace of all three.
    """
    started = time.perf_counter()
    from v4kit.engines import load

    model = load()
    print(f"{model!r}, ready after {time.perf_counter() - started:.1f} s\n")
    traces = [
        write(model, label, prompt, max_new_tokens=max_new_tokens)
        for label, prompt in PROMPTS.items()
    ]
    for line in summary(traces):
        print(line)
    trace = concat(traces)
    trace.to_html(report, title="v4kit demo: three domains")
    print(f"\nReport: {report.resolve()}")
    return trace


def write(model: Model, label: str, prompt: str, *, max_new_tokens: int) -> Trace:
    """Print a prompt and its continuation as it comes; return the labelled trace."""
    print(f"── {label} {'─' * (_WIDTH - len(label))}")
    print(prompt, end="", flush=True)
    started = time.perf_counter()
    stream = model.stream(prompt, max_new_tokens=max_new_tokens, temperature=0.7, top_p=0.9, seed=1)
    stream.finish(lambda step: print(step.text, end="", flush=True))
    trace = stream.trace
    generated = int((trace.tokens["phase"] == "generated").sum())
    rate = generated / (time.perf_counter() - started)
    print(f"\n[{generated} tokens, {rate:.0f} tokens/s, every layer's routing recorded]\n")
    trace.tokens = trace.tokens.assign(label=label)
    return trace


def summary(traces: list[Trace]) -> list[str]:
    """Return lines that tell, for the last layer that chooses, which experts each trace used."""
    kinds = traces[0].routing["kind"].to_numpy()
    layer = int(np.flatnonzero(kinds == TOPK)[-1])
    architecture = traces[0].meta["architecture"]
    chance = architecture["top_k"] / architecture["n_experts"]
    lines = [
        f"Layer {layer}: share of the tokens that used an expert (if all were alike: {chance:.1%})",
    ]
    for trace in traces:
        used = trace.routing["experts"].to_numpy()[trace.tokens["valid"].to_numpy(), layer]
        counts = np.bincount(used[used >= 0], minlength=architecture["n_experts"])
        top = np.argsort(-counts, kind="stable")[:5]
        shares = "  ".join(f"{e:>3}: {counts[e] / max(len(used), 1):4.0%}" for e in top)
        lines.append(f"  {trace.tokens['label'].iloc[0]:<10} expert {shares}   (n = {len(used)})")
    hash_layers = np.flatnonzero(kinds == "hash").tolist()
    lines.append(f"  Layers {hash_layers} do not choose: there the token alone decides.")
    return lines
