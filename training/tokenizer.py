"""Byte-level BPE with DeepSeek-V4's special tokens as the first ids.

Run as `python -m training.tokenizer --data data --out tokenizer`. Digits are split one by one, so
that a sum's digits line up; padding is on the right, because V4 in transformers is wrong under left
padding.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.corpus import DOMAINS

VOCABULARY = 4096
SAMPLE = 700_000
"""Characters of each natural domain that the merges are counted on (a sixth of it for others)."""

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
SPECIAL = (
    BOS,
    EOS,
    PAD,
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜latest_reminder｜>",
    "<think>",
    "</think>",
    "｜DSML｜",
    "<｜action｜>",
    "<｜query｜>",
    "<｜authority｜>",
    "<｜domain｜>",
    "<｜title｜>",
    "<｜extracted_url｜>",
    "<｜read_url｜>",
)


def read(path: Path) -> list[str]:
    """Return the documents of a `.jsonl` file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def sample(data: Path) -> Iterator[str]:
    """Yield text of every domain, special tokens cut out of it."""
    special = "|".join(map(re.escape, SPECIAL))
    for domain in DOMAINS:
        left = SAMPLE if domain not in ("sums", "recall", "chat") else SAMPLE // 6
        if domain == "verse":
            left //= 2
        for document in read(data / f"{domain}.train.jsonl"):
            text = re.sub(special, "\n", document)
            yield text[:left]
            left -= len(text)
            if left <= 0:
                break


def train(data: Path) -> Tokenizer:
    """Return the tokenizer trained on a sample of all domains."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(t, normalized=False, special=True) for t in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample(data), trainer)
    return tokenizer


def main() -> None:
    """Train, save as a transformers tokenizer and print bytes per token of each domain."""
    from transformers import PreTrainedTokenizerFast

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("tokenizer"))
    options = parser.parse_args()
    tokenizer = train(options.data)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="right",
        model_max_length=16_384,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(options.out)
    for domain in DOMAINS:
        held = read(options.data / f"{domain}.held.jsonl")
        tokens = sum(len(e.ids) for e in tokenizer.encode_batch(held))
        size = sum(len(d.encode()) for d in held)
        print(f"{domain:11s} {size / tokens:.2f} bytes per token")


if __name__ == "__main__":
    main()
