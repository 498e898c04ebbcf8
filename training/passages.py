"""Held-out passages, what a model does with them, and what that says of domains and experts."""

from __future__ import annotations

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
PASSAGES = {True: 16, False: 8}
"""Passages of each natural and each generated domain."""
BARRED = 4
"""Experts of each top-k layer that are most specific to a domain."""
SHUFFLES = 20


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
