"""How the model finds a value in a list: right answers by place, and attention to the needle.

Documents are the held-out ones of recall, each with 0 to 3 tokens or a stretch of text before its
list, so that lines begin at every place of a compressed block. "Near" means within the sliding
window, "far" beyond it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.recall import RATE
from training.tokenizer import read

DOCUMENTS = 20
"""Held-out documents that are read at each alignment."""
LAYER = 2
"""The layer whose attention was aimed at the needle."""
TEXT = 100
"""Tokens of held-out narrative before a list where text stands before it."""
BEFORE = ("0", "1", "2", "3", "text")


@dataclass(frozen=True)
class Question:
    """A question of a document, by rows of its tokens."""

    asking: int
    """Row of the question mark."""
    value: int
    """Row of the value in the list."""
    others: tuple[int, ...]
    """Rows of the other pairs' values."""
    again: bool
    """Whether the same key was asked before."""

    @property
    def distance(self) -> int:
        """Tokens from the key in the list to the key in the question."""
        return self.asking - 1 - (self.value - 2)


@dataclass(frozen=True)
class Document:
    """A document's ids and questions."""

    ids: torch.Tensor
    questions: tuple[Question, ...]


def questions(ids: Sequence[int], colon: int, mark: int, start: int) -> Iterator[Question]:
    """Yield the questions of a document whose list begins at row `start`."""
    told: dict[int, int] = {}
    asked: set[int] = set()
    for row in range(start, len(ids) - 2):
        key = ids[row]
        if ids[row + 1] == colon:
            told[key] = row + 2
        elif ids[row + 1] == mark:
            others = tuple(at for other, at in told.items() if other != key)
            yield Question(row + 1, told[key], others, key in asked)
            asked.add(key)


def documents(tokenizer: Any, held: Path, before: str, count: int = DOCUMENTS) -> list[Document]:
    """Return held-out documents with that many tokens, or "text", before their lists."""

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    colon, mark, newline = ids("cat: red")[1], ids("cat? red")[1], ids("cat\n")[1]
    stories = [ids(story) for story in read(held / "narrative.jsonl")]
    made = []
    for number, text in enumerate(read(held / "recall.jsonl")[:count]):
        story = stories[number % len(stories)]
        lead = [*story[:TEXT], newline] if before == "text" else story[: int(before)]
        row = [tokenizer.bos_token_id, *lead, *ids(text)]
        found = tuple(questions(row, colon, mark, 1 + len(lead)))
        made.append(Document(torch.tensor([row]), found))
    return made


def answers(hf: Any, document: Document) -> np.ndarray:
    """Return whether each question's value is the likeliest next token."""
    with torch.inference_mode():
        likeliest = hf(input_ids=document.ids, use_cache=False).logits[0].argmax(-1)
    asking = torch.tensor([question.asking for question in document.questions])
    return (likeliest[asking] == document.ids[0, asking + 1]).numpy()


def shares(right: np.ndarray, far: np.ndarray) -> dict[str, float]:
    """Return the shares of right answers near and far, and how many there were."""
    return {
        "near": float(right[~far].mean()),
        "far": float(right[far].mean()),
        "questions_near": int((~far).sum()),
        "questions_far": int(far.sum()),
    }


def alignment(hf: Any, tokenizer: Any, held: Path) -> dict[str, Any]:
    """Return the shares of right answers by what stands before the list, and far by distance.

    By distance, questions whose key was asked before do not count.
    """
    window = hf.config.sliding_window
    rows, result = [], {}
    for before in BEFORE:
        made = documents(tokenizer, held, before)
        right = np.concatenate([answers(hf, document) for document in made])
        asked = [question for document in made for question in document.questions]
        distance = np.array([question.distance for question in asked])
        result[before] = shares(right, distance > window)
        first = np.array([not question.again for question in asked])
        rows.append(np.stack([distance[first], right[first]]))
    distance, right = np.concatenate(rows, 1)
    edges = (0, window, 64, 128, 192, 256, 10**6)
    by_distance = {}
    for low, high in itertools.pairwise(edges):
        inside = (distance > low) & (distance <= high)
        name = f"{low + 1} to {high}" if high < edges[-1] else f"over {low}"
        by_distance[name] = {"right": float(right[inside].mean()), "questions": int(inside.sum())}
    return {"before": result, "first_asked_by_distance": by_distance}


def blocks(value: int) -> list[int]:
    """Return the two blocks of the aimed layer that take from a value's row."""
    return [value // RATE, value // RATE + 1]


@contextmanager
def far_hidden(hf: Any, layer: int) -> Iterator[None]:
    """Hide a CSA layer's blocks that lie wholly before the sliding window."""
    window = hf.config.sliding_window

    def hide(_module: Any, _inputs: Any, output: Any) -> Any:
        entries, bias = output
        query = torch.arange(bias.shape[-2]).unsqueeze(1)
        last = RATE * torch.arange(bias.shape[-1]) + RATE - 1
        return entries, bias.masked_fill(last < query - window + 1, float("-inf"))

    handle = hf.model.layers[layer].self_attn.compressor.register_forward_hook(hide)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def watched(hf: Any, layer: int) -> Iterator[dict[str, torch.Tensor]]:
    """Collect a layer's attention `[head, query, token and block]` and its indexer's choice."""
    seen: dict[str, torch.Tensor] = {}
    attention = hf.model.layers[layer].self_attn
    handles = [
        attention.register_forward_hook(lambda _m, _i, out: seen.update(attention=out[1][0])),
        attention.compressor.indexer.register_forward_hook(
            lambda _m, _i, out: seen.update(chosen=out[0])
        ),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def attended(hf: Any, document: Document) -> list[tuple[float, float, bool, float, bool]]:
    """Return, for far questions asked first, what the aimed layer does with needle and others.

    A row holds the mass that a head gives to the needle's blocks and to another far pair's blocks,
    whether the indexer chose one of the needle's blocks, how often one of another far pair's, and
    whether there were more than twice the blocks that the indexer may choose.
    """
    window, topk = hf.config.sliding_window, hf.config.index_topk
    with torch.inference_mode(), watched(hf, LAYER) as seen:
        hf(input_ids=document.ids, use_cache=False)
    length = document.ids.shape[1]
    rows = []
    for question in document.questions:
        row = question.asking
        far = [v for v in question.others if RATE * (v // RATE + 2) <= row - window]
        needle = blocks(question.value)
        others = [blocks(v) for v in far if not set(blocks(v)) & set(needle)]
        if question.again or not others or RATE * (needle[1] + 1) > row - window:
            continue
        mass = seen["attention"][:, row, length:].mean(0)
        chosen = set(seen["chosen"][row].tolist())
        rows.append(
            (
                float(mass[needle].sum()),
                float(np.mean([float(mass[other].sum()) for other in others])),
                bool(chosen & set(needle)),
                float(np.mean([bool(chosen & set(other)) for other in others])),
                (row + 1) // RATE > 2 * topk,
            )
        )
    return rows


def attention_to_needle(hf: Any, tokenizer: Any, held: Path) -> dict[str, float]:
    """Return attention, the indexer's choice and far accuracy with the layer's far blocks hidden.

    All alignments of 0 to 3 tokens before the list take part.
    """
    window = hf.config.sliding_window
    rows: list[tuple[float, float, bool, float, bool]] = []
    whole: list[np.ndarray] = []
    hidden: list[np.ndarray] = []
    for before in BEFORE[:RATE]:
        for document in documents(tokenizer, held, before):
            far = np.array([q.distance > window for q in document.questions], dtype=bool)
            rows += attended(hf, document)
            whole.append(answers(hf, document)[far])
            with far_hidden(hf, LAYER):
                hidden.append(answers(hf, document)[far])
    table = np.array(rows, dtype=float)
    sparse = table[table[:, 4] > 0]
    return {
        "layer": LAYER,
        "questions": len(table),
        "mass_needle": float(table[:, 0].mean()),
        "mass_other": float(table[:, 1].mean()),
        "chosen_needle": float(sparse[:, 2].mean()),
        "chosen_other": float(sparse[:, 3].mean()),
        "questions_chosen": len(sparse),
        "far": float(np.concatenate(whole).mean()),
        "far_hidden": float(np.concatenate(hidden).mean()),
    }
