"""Token ids of the corpus and the batches drawn from them.

A batch depends on the seed and the step alone, so a resumed run sees the same data.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from training.generated import GENERATORS
from training.settings import MIXTURE, Schedule
from training.tokenizer import read

BOS, EOS = 0, 1


def encode(tokenizer: Tokenizer, documents: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return all ids, each document as BOS … EOS, and the documents' start offsets."""
    parts = [[BOS, *e.ids, EOS] for e in tokenizer.encode_batch(documents)]
    starts = np.cumsum([0, *(len(p) for p in parts[:-1])])
    return np.concatenate([np.array(p, dtype=np.int64) for p in parts]), starts


class Corpus:
    """The training documents of every domain as token ids."""

    def __init__(self, data: Path, tokenizer: Tokenizer) -> None:
        self.domains = list(MIXTURE)
        self.natural = [domain for domain in self.domains if domain not in GENERATORS]
        self.encoded = {
            domain: encode(tokenizer, read(data / f"{domain}.train.jsonl"))
            for domain in self.domains
        }

    def frequency(self, vocabulary: int) -> np.ndarray:
        """Return how often each token id is drawn, in parts of the mixture `[vocabulary]`."""
        total = np.zeros(vocabulary)
        for domain, weight in MIXTURE.items():
            ids = self.encoded[domain][0]
            total += weight * np.bincount(ids, minlength=vocabulary) / len(ids)
        return total * 1e6

    def crop(self, rng: np.random.Generator, domain: str, length: int) -> np.ndarray:
        """Return `length` ids that begin with BOS.

        Generated documents are cropped at a document's start, so that what is asked was told.
        """
        ids, starts = self.encoded[domain]
        if domain in GENERATORS:
            start = int(rng.choice(starts[starts < len(ids) - length]))
            return ids[start : start + length]
        start = int(rng.integers(0, len(ids) - length))
        return np.concatenate([[BOS], ids[start : start + length - 1]])

    def draw(self, rng: np.random.Generator) -> str:
        """Return a domain, drawn by its part of the mixture."""
        weights = np.array(list(MIXTURE.values()))
        return self.domains[int(rng.choice(len(self.domains), p=weights / weights.sum()))]

    def batch(self, schedule: Schedule, step: int) -> torch.Tensor:
        """Return the ids `[sequence, token]` of a step."""
        rng = np.random.default_rng([schedule.seed, step])
        long = step % schedule.long_every == schedule.long_every - 1
        length = schedule.long_length if long else schedule.length
        weights = np.array(list(MIXTURE.values()))
        drawn = rng.choice(len(self.domains), schedule.tokens // length, p=weights / weights.sum())
        return torch.from_numpy(np.stack([self.crop(rng, self.domains[d], length) for d in drawn]))
