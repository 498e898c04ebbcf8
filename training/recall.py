"""Recall with known places: lists, questions, and the compressed blocks that hold the answers.

What stands before a list varies in length, so that a line begins at every place of a block. The
ids are put together directly: every key and value is one token, and a line is `key : value ⏎`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from tokenizers import Tokenizer

from training.data import BOS, EOS, Corpus
from training.generated import KEYS, VALUES
from training.settings import ARCHITECTURE, Stage

RATE: int = ARCHITECTURE["compress_rates"]["compressed_sparse_attention"]
"""Tokens after which a compressed block follows the last; a block reaches back twice as far."""


@dataclass(frozen=True)
class Words:
    """Token ids that recall is made of."""

    keys: np.ndarray
    values: np.ndarray
    colon: int
    question: int
    newline: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Words:
        """Return the ids of a tokenizer.

        Raises:
            ValueError: A key or a value is not one token.
        """

        def ids(text: str) -> list[int]:
            return list(tokenizer.encode(text, add_special_tokens=False).ids)

        lines = [ids(f"{key}: {VALUES[0]}\n{key}? {VALUES[0]}") for key in KEYS]
        values = [ids(f": {value}")[1:] for value in VALUES]
        if any(len(line) != 7 for line in lines) or any(len(value) != 1 for value in values):
            raise ValueError("a key or a value of recall is not one token")
        _, colon, _, newline, _, question, _ = lines[0]
        keys = np.array([line[0] for line in lines])
        return cls(keys, np.array([value[0] for value in values]), colon, question, newline)


@dataclass
class Sequence:
    """Documents of recall in one row of tokens, and where in it things are."""

    ids: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    """Rows after a colon or a question mark at which a value stands."""
    questions: list[tuple[int, list[int]]] = field(default_factory=list)
    """Row at which the next token is the asked value, and rows where that value stood before."""

    def document(
        self, rng: np.random.Generator, words: Words, stage: Stage, before: list[int]
    ) -> None:
        """Append one document: text, a list, and questions until about twice its length."""
        n = int(rng.integers(stage.pairs[0], stage.pairs[1] + 1))
        keys = rng.choice(words.keys, n, replace=False).tolist()
        values = rng.choice(words.values, n).tolist()
        self.ids += [BOS, *before]
        stood: list[list[int]] = []
        for key, value in zip(keys, values, strict=True):
            stood.append([len(self.ids) + 2])
            self.ids += [key, words.colon, value, words.newline]
            self.marks.append(len(self.ids) - 2)
        for i in rng.integers(0, n, max(int(rng.integers(n, 2 * n + 8)), stage.questions)).tolist():
            row = len(self.ids)
            if rng.random() < stage.direct:
                asking = row
                self.ids += [keys[i], values[i], words.newline, words.newline]
            else:
                asking = row + 1
                self.ids += [keys[i], words.question, values[i], words.newline]
                self.marks.append(row + 2)
            self.questions.append((asking, list(stood[i])))
            stood[i].append(asking + 1)
        self.ids[-1] = EOS


def text_before(rng: np.random.Generator, corpus: Corpus, words: Words, most: int) -> list[int]:
    """Return 0 to `most` tokens of a natural text, half of the times at most 7, then a new line."""
    length = int(rng.integers(0, 8 if most < 8 or rng.random() < 0.5 else most + 1))
    if length == 0:
        return []
    domain = corpus.natural[int(rng.integers(len(corpus.natural)))]
    return [*corpus.crop(rng, domain, length)[1:].tolist(), words.newline]


def sequence(
    rng: np.random.Generator, corpus: Corpus, words: Words, stage: Stage, length: int
) -> Sequence:
    """Return a sequence of `length` tokens; what lies beyond its end is dropped."""
    made = Sequence()
    while len(made.ids) < length:
        made.document(rng, words, stage, text_before(rng, corpus, words, stage.before))
    made.ids = made.ids[:length]
    made.marks = [row for row in made.marks if row < length]
    made.questions = [(row, rows) for row, rows in made.questions if row + 1 < length]
    return made


def blocks(asking: int, stood: list[int]) -> list[int]:
    """Return the blocks that hold a value and are complete when it is asked for.

    A block takes from its own tokens and from those of the block before, so a value is in two.
    """
    found = {row // RATE + step for row in stood for step in (0, 1)}
    return sorted(block for block in found if block < (asking + 1) // RATE)


@dataclass(frozen=True)
class Batch:
    """One step's tokens, what each counts, and what attention should find."""

    ids: torch.Tensor
    """Token ids `[sequence, token]`."""
    weight: torch.Tensor
    """Weight of each token in the loss `[sequence, token]`."""
    answers: torch.Tensor
    """Whether a token is the answer to a question `[sequence, token]`."""
    needles: torch.Tensor
    """Blocks that hold the asked value `[sequence, asking token, block]`."""
    marks: torch.Tensor
    """Whether a token is a value after its key's colon or question mark `[sequence, token]`."""
    asks: torch.Tensor
    """Whether a token is a question mark that asks `[sequence, token]`."""


def batch(rng: np.random.Generator, corpus: Corpus, words: Words, stage: Stage, step: int) -> Batch:
    """Return the batch of a stage's step: recall, and the mixture of the first training."""
    length = stage.lengths[step % len(stage.lengths)]
    count = stage.tokens // length
    shape = (count, length)
    ids, weight = np.zeros(shape, np.int64), np.ones(shape, np.float32)
    answers, marks, asks = (np.zeros(shape, bool) for _ in range(3))
    needles = np.zeros((*shape, length // RATE), bool)
    for number in range(count):
        if rng.random() >= stage.recall:
            ids[number] = corpus.crop(rng, corpus.draw(rng), length)
            continue
        made = sequence(rng, corpus, words, stage, length)
        ids[number] = made.ids
        marks[number, made.marks] = True
        for asking, stood in made.questions:
            answers[number, asking + 1] = True
            asks[number, asking] = ids[number, asking] == words.question
            needles[number, asking, blocks(asking, stood)] = True
        weight[number] = np.where(answers[number], stage.answer_weight, stage.other_weight)
    tensors = (torch.from_numpy(x) for x in (ids, weight, answers, needles, marks, asks))
    return Batch(*tensors)
