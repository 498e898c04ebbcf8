"""Evaluate the shipped model on the held-out texts and write `evaluation.json`.

`python -m training.evaluate --model v4kit/models/tiny --held tests/data/held_out`. Every number is
computed from the shipped file through the kit's own recording; a test runs the same functions and
compares.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import v4kit
from training.corpus import DOMAINS, NATURAL
from training.tokenizer import read

LENGTH = 256
"""Tokens of a passage, BOS included."""
PASSAGES = {True: 24, False: 12}
"""Passages of each natural and each generated domain."""
BARRED = 4
"""Experts of each top-k layer that are barred for one domain."""
SHUFFLES = 20
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


@dataclass(frozen=True)
class Passages:
    """Held-out passages of all domains."""

    ids: torch.Tensor
    """Token ids `[passage, token]`."""
    domain: np.ndarray
    """Index into DOMAINS of each passage."""
    size: np.ndarray
    """Bytes of text in each passage, BOS and other special tokens not counted."""


def passages(tokenizer: Any, held: Path) -> Passages:
    """Return equally long passages: BOS and consecutive tokens of the held-out documents."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    ids, domain, size = [], [], []
    for index, name in enumerate(DOMAINS):
        joined: list[int] = []
        for document in read(held / f"{name}.jsonl"):
            joined += [*tokenizer(document, add_special_tokens=False)["input_ids"], eos, bos]
        count = PASSAGES[name in NATURAL]
        for number in range(count):
            # Spread over the whole text; generated documents overlap no cut that matters.
            start = number * (len(joined) - LENGTH) // count
            passage = [bos, *joined[start : start + LENGTH - 1]]
            names = tokenizer.convert_ids_to_tokens([i for i in passage if i not in special])
            ids.append(passage)
            domain.append(index)
            size.append(sum(len(n) for n in names))  # one character of a name is one byte
    return Passages(torch.tensor(ids), np.array(domain), np.array(size))


@dataclass(frozen=True)
class Reading:
    """What a model did with the passages."""

    experts: np.ndarray
    """Experts used `[passage, token, layer, slot]`."""
    nats: np.ndarray
    """Negative log-probability `[passage, token]`; 0 for BOS."""


def run(hf: Any, data: Passages) -> Reading:
    """Return what a transformers model does with the passages, recorded in batches of eight."""
    with torch.inference_mode(), v4kit.record(hf, v4kit.Record(routing="ids")) as recording:
        for batch in data.ids.split(8):
            hf(input_ids=batch, use_cache=False)
    trace = recording.trace
    shape = (len(data.ids), LENGTH)
    experts = (
        trace.routing["experts"].to_numpy().reshape(*shape, *trace.routing["experts"].shape[1:])
    )
    nats = -trace.tokens["logprob"].to_numpy().reshape(shape)
    nats[:, 0] = 0
    return Reading(experts, nats)


def loss(reading: Reading, data: Passages) -> np.ndarray:
    """Return the mean loss in nats per token of each domain."""
    return np.array([reading.nats[data.domain == d][:, 1:].mean() for d in range(len(DOMAINS))])


def bits_per_byte(reading: Reading, data: Passages) -> dict[str, float]:
    """Return bits per byte of text, by domain; end-of-text tokens count as cost without bytes."""
    values = {}
    for index, name in enumerate(DOMAINS):
        rows = data.domain == index
        values[name] = float(reading.nats[rows].sum() / np.log(2) / data.size[rows].sum())
    return values


def counts(reading: Reading, layer: int, n_experts: int) -> np.ndarray:
    """Return how often each passage uses each expert `[passage, expert]`."""
    used = reading.experts[:, :, layer].reshape(len(reading.experts), -1)
    return np.stack([np.bincount(row, minlength=n_experts) for row in used])


def information(table: np.ndarray) -> tuple[float, float]:
    """Return mutual information in bits and its normalised form of a table of counts."""
    joint = table / table.sum()
    rows, columns = joint.sum(1), joint.sum(0)
    entropy = [-(p[p > 0] * np.log2(p[p > 0])).sum() for p in (joint.ravel(), rows, columns)]
    bits = entropy[1] + entropy[2] - entropy[0]
    return float(bits), float(bits / np.sqrt(entropy[1] * entropy[2]))


def by_domain(per_passage: np.ndarray, domain: np.ndarray) -> np.ndarray:
    """Return counts `[domain, expert]`."""
    return np.stack([per_passage[domain == d].sum(0) for d in range(len(DOMAINS))])


def specialisation(reading: Reading, data: Passages, n_experts: int) -> list[dict[str, float]]:
    """Return, per layer, the information between domain and expert beside shuffled passages."""
    rng = np.random.default_rng(0)
    layers = []
    for layer in range(reading.experts.shape[2]):
        table = counts(reading, layer, n_experts)
        bits, nmi = information(by_domain(table, data.domain))
        shuffled = [
            information(by_domain(table, rng.permutation(data.domain)))[1] for _ in range(SHUFFLES)
        ]
        load = table.sum(0)
        layers.append(
            {
                "nmi": nmi,
                "bits": bits,
                "nmi_shuffled": float(np.mean(shuffled)),
                "load_max_over_mean": float(load.max() / load.mean()),
                "load_min_over_mean": float(load.min() / load.mean()),
                "dead": int((load == 0).sum()),
            }
        )
    return layers


def specific(reading: Reading, data: Passages, layer: int, n_experts: int) -> np.ndarray:
    """Return each domain's most specific experts `[domain, expert]`: largest p·log(p / mean p)."""
    share = by_domain(counts(reading, layer, n_experts), data.domain).astype(float)
    share /= share.sum(1, keepdims=True)
    gain = share * np.log((share + 1e-6) / (share.mean(0) + 1e-6))
    return np.argsort(-gain, axis=1)[:, :BARRED]


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
