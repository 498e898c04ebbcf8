"""Evaluate the shipped model on the held-out texts and write `evaluation.json`.

`python -m training.evaluate --model v4kit/models/tiny --held tests/data/held_out`. Every number is
computed from the shipped file through the kit's own recording; a test runs the same functions and
compares.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

import v4kit
from training.corpus import DOMAINS, NATURAL
from training.needles import alignment, attention_to_needle
from training.passages import (
    BARRED,
    Passages,
    Reading,
    bits_per_byte,
    loss,
    passages,
    run,
    specialisation,
    specific,
)
from training.tokenizer import read

PROMPTS = {
    "narrative": "And the Lord said to Moses, ",
    "drama": "KING HENRY\n",
    "python": "def add(",
    "c": "static int ",
    "verse": "春夜\n",
    "dictionary": "river (noun): ",
    "sums": "12 + 7 = 19\n23 + 14 = ",
    "recall": "cat: red\ndog: blue\nking: seven\nlamp: milk\ndog?",
}


def barring(hf: Any, reading: Reading, data: Passages) -> dict[str, dict[str, float]]:
    """Return the change of loss in nats `[barred for, measured on]` when experts are barred.

    Barred experts can't be selected; the router takes the next best. Only top-k layers take part.
    The last row bars as many experts drawn at random.
    """
    gates = {i: layer.mlp.gate for i, layer in enumerate(hf.model.layers) if not layer.mlp.is_hash}
    n_experts = hf.config.n_routed_experts
    chosen = {layer: specific(reading, data, layer, n_experts) for layer in gates}
    rng = np.random.default_rng(1)
    base = loss(reading, data)
    table = {}
    for row, name in enumerate((*DOMAINS, "random")):
        for layer, gate in gates.items():
            random = rng.choice(n_experts, BARRED, replace=False)
            barred = random if name == "random" else chosen[layer][row]
            gate.e_score_correction_bias[torch.from_numpy(barred.copy())] -= 1e4
        changed = loss(run(hf, data), data) - base
        for gate in gates.values():
            bias = gate.e_score_correction_bias
            bias[bias < -5e3] += 1e4
        table[name] = dict(zip(DOMAINS, changed.tolist(), strict=True))
    return table


def accuracy(model: v4kit.Model, held: Path) -> dict[str, float]:
    """Return how often recalled values and held-out sums are predicted right, token by token.

    "recall_far" asks for values told more than the sliding window before; a sum counts when all
    its digits are right.
    """
    window = model.hf.config.sliding_window
    near, far, sums = [], [], []
    for document in read(held / "recall.jsonl")[:40]:
        trace = model.read(document)
        text, predicted = trace.tokens["text"].tolist(), trace.tokens["predicted"].tolist()
        told: dict[str, int] = {}
        for row in range(1, len(text) - 2):
            if text[row + 1] == ":":
                told[text[row]] = row
            elif text[row + 1] == "?":
                right = predicted[row + 1] == trace.tokens["id"].iloc[row + 2]
                (near if row - told[text[row]] <= window else far).append(right)
    for document in read(held / "sums.jsonl")[:30]:
        trace = model.read(document)
        hit = trace.tokens["predicted"].shift() == trace.tokens["id"]
        text = trace.text[len(trace.tokens["text"].iloc[0]) :]
        ends = np.cumsum([len(t) for t in trace.tokens["text"]]) - len(trace.tokens["text"].iloc[0])
        for match in re.finditer(r"= (\d+)(\n|$)", text):
            rows = (ends > match.start(1)) & (ends <= match.end(1))
            sums.append(bool(hit[rows].all()))
    return {
        "recall_near": float(np.mean(near)),
        "recall_far": float(np.mean(far)),
        "sums_held_out": float(np.mean(sums)),
        "questions_near": len(near),
        "questions_far": len(far),
        "sums": len(sums),
    }


def samples(model: v4kit.Model) -> dict[str, dict[str, str]]:
    """Return continuations as they come, greedy and drawn with seed 1."""
    found: dict[str, dict[str, str]] = {}
    for name, prompt in PROMPTS.items():
        greedy = model.generate(prompt, max_new_tokens=60)
        drawn = model.generate(prompt, max_new_tokens=60, temperature=0.7, top_p=0.9, seed=1)
        found[name] = {"prompt": prompt, "greedy": greedy.completion, "drawn": drawn.completion}
    for thinking in (None, "high"):
        question = [{"role": "user", "content": "What is 17 + 8?"}]
        reply = model.generate(question, max_new_tokens=30, thinking=thinking)
        found[f"chat, thinking={thinking}"] = {
            "prompt": question[0]["content"],
            "greedy": reply.completion,
        }
    return found


def untrained(hf: Any) -> Any:
    """Return a model with the same config and hash tables and weights as drawn from seed 0."""
    torch.manual_seed(0)
    fresh = type(hf)(hf.config).eval()
    for old, new in zip(hf.model.layers, fresh.model.layers, strict=True):
        if old.mlp.is_hash:
            new.mlp.gate.tid2eid.copy_(old.mlp.gate.tid2eid)
    return fresh


def hash_exact(reading: Reading, data: Passages, hf: Any) -> bool:
    """Tell whether hash layers used exactly their table's experts."""
    return all(
        np.array_equal(reading.experts[:, :, i], layer.mlp.gate.tid2eid[data.ids].numpy())
        for i, layer in enumerate(hf.model.layers)
        if layer.mlp.is_hash
    )


def summary(table: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return what barring costs the own domain and, in absolute value, the others."""
    own = [table[d][d] for d in DOMAINS]
    others = [abs(table[d][e]) for d in DOMAINS for e in DOMAINS if d != e]
    return {
        "own_smallest": min(own),
        "own_mean": float(np.mean(own)),
        "others_mean_absolute": float(np.mean(others)),
        "random_mean": float(np.mean(list(table["random"].values()))),
    }


def evaluate(model: v4kit.Model, held: Path) -> dict[str, Any]:
    """Return all measurements of a model on the held-out texts in a folder."""
    data = passages(model.tokenizer, held)
    n_experts = model.architecture.n_experts
    trained = run(model.hf, data)
    raw = run(untrained(model.hf), data)
    bpb = bits_per_byte(trained, data)
    table = barring(model.hf, trained, data)
    return {
        "bits_per_byte": bpb,
        "bits_per_byte_natural_mean": float(np.mean([bpb[d] for d in NATURAL])),
        "bits_per_byte_untrained": bits_per_byte(raw, data),
        "layers": specialisation(trained, data, n_experts),
        "layers_untrained": specialisation(raw, data, n_experts),
        "barring": table,
        "barring_summary": summary(table),
        "hash_layers_exact": hash_exact(trained, data, model.hf),
        "accuracy": accuracy(model, held),
        "recall": {
            **alignment(model.hf, model.tokenizer, held),
            "needle": attention_to_needle(model.hf, model.tokenizer, held),
        },
    }


def rounded(value: Any) -> Any:
    """Return JSON data with floats at four decimals."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def main() -> None:
    """Evaluate, add samples and how the model was trained, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("v4kit/models/tiny"))
    parser.add_argument("--held", type=Path, default=Path("tests/data/held_out"))
    options = parser.parse_args()
    model = v4kit.load(options.model)
    result = {
        "training": json.loads((options.model / "training.json").read_text()),
        **rounded(evaluate(model, options.held)),
        "samples": samples(model),
    }
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    (options.model / "evaluation.json").write_text(text)
    print(json.dumps({k: v for k, v in result.items() if k != "samples"}, indent=1))


if __name__ == "__main__":
    main()
