"""The tiny model's architecture and the schedule of its training, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ARCHITECTURE: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 128,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "head_dim": 32,
    "q_lora_rank": 64,
    "o_groups": 2,
    "o_lora_rank": 64,
    "n_routed_experts": 32,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "layer_types": ["sliding_attention"] * 2
    + ["compressed_sparse_attention", "heavily_compressed_attention"] * 2,
    "mlp_layer_types": ["hash_moe"] * 2 + ["moe"] * 4,
    "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 16},
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "sliding_window": 32,
    "index_n_heads": 16,
    "index_head_dim": 32,
    "index_topk": 16,
    "partial_rotary_factor": 0.5,
    "rope_theta": 10_000.0,
    "compress_rope_theta": 40_000.0,
    "max_position_embeddings": 16_384,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
}

MIXTURE: dict[str, float] = {
    "narrative": 0.13,
    "drama": 0.12,
    "python": 0.13,
    "c": 0.12,
    "verse": 0.13,
    "dictionary": 0.12,
    "sums": 0.06,
    "recall": 0.12,
    "chat": 0.07,
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """What happens at which step; every number that shapes the run."""

    steps: int
    """Optimiser steps in all."""
    decay: int
    """Steps of linear decay at the end; before it the rate is constant."""
    warmup: int = 60
    """Steps of linear warm-up."""
    tokens: int = 4_096
    """Tokens of one step."""
    length: int = 256
    """Tokens of a sequence."""
    long_length: int = 1_024
    """Tokens of a sequence in every `long_every`-th step."""
    long_every: int = 8
    """Every how many steps the sequences are long."""
    muon: float = 0.02
    """Learning rate of Muon (matrices of attention and shared experts)."""
    adam: float = 3e-3
    """Learning rate of AdamW (everything else)."""
    weight_decay: float = 0.05
    """Decoupled weight decay of both."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    dense_indexer: int = 500
    """Steps in which every compressed entry is attended to, so that the indexer can learn first."""
    bias_early: float = 5e-3
    """Update speed of the routing bias in the first `bias_steps` steps."""
    bias_late: float = 2e-3
    """Update speed of the routing bias afterwards; it decays with the learning rate."""
    bias_steps: int = 600
    """Steps of the early update speed."""
    seed: int = 0
    """Seed of weights, hash tables and data order."""

    def rate(self, step: int) -> float:
        """Return the factor on the learning rates at a step: warm-up, constant, linear decay."""
        left = (self.steps - step) / self.decay
        return min(1.0, (step + 1) / self.warmup, max(left, 0.02))

    def bias_speed(self, step: int) -> float:
        """Return the routing bias's update at a step."""
        speed = self.bias_early if step < self.bias_steps else self.bias_late
        return speed * min(1.0, max((self.steps - step) / self.decay, 0.0))


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of teaching recall after the first training (`training.teach`)."""

    name: str
    steps: int
    """Optimiser steps."""
    tokens: int
    """Tokens of one step."""
    lengths: tuple[int, ...]
    """Tokens of a sequence, step by step in turn."""
    pairs: tuple[int, int]
    """Fewest and most pairs of a list."""
    recall: float
    """Part of the sequences that are recall with known places; the rest is the mixture."""
    target: float
    """Weight of the attention target; 0 is off."""
    before: int = 7
    """Most tokens of natural text before a list."""
    questions: int = 0
    """Fewest questions after a list; there are n to 2 n + 7 in any case."""
    direct: float = 0.0
    """Part of the questions that are a key and its value without a question mark."""
    answer_weight: float = 1.0
    """Weight of an answer's loss in a sequence of recall; the mixture's tokens weigh 1."""
    other_weight: float = 0.02
    """Weight of any other token's loss in a sequence of recall."""
    attention_only: bool = False
    """Train the attention of the aimed layers alone, towards the target alone."""
    dense: bool = False
    """Attend to every compressed block, not only those that the indexer chooses."""
    bias: float = 0.0
    """Update speed of the routing bias; it decays with the learning rate."""
    warmup: int = 20
    """Steps of linear warm-up."""
    last: float = 1.0
    """Factor on the learning rates that is reached at the end, linearly."""

    def rate(self, step: int) -> float:
        """Return the factor on the learning rates at a step."""
        return min(1.0, (step + 1) / self.warmup) * (1 + (self.last - 1) * step / self.steps)


STAGES = (
    Stage(
        "key", 180, 2_304, (72,), (3, 5), 1.0, 1.0, questions=16, direct=1.0, attention_only=True
    ),
    Stage(
        "mark", 180, 2_304, (72,), (3, 6), 1.0, 1.0, questions=16, direct=0.4, attention_only=True
    ),
    Stage("short", 220, 2_048, (64, 96), (2, 6), 0.9, 1.0, questions=16, direct=0.2),
    Stage("middle", 150, 2_048, (128,), (4, 16), 0.8, 0.5, before=40, dense=True),
    Stage("long", 170, 4_096, (256,), (4, 40), 0.7, 0.3, before=120),
    Stage(
        "mixture",
        360,
        4_096,
        (256, 256, 256, 512),
        (2, 60),
        0.15,
        0.0,
        before=120,
        answer_weight=2.0,
        other_weight=0.2,
        bias=1e-3,
        warmup=10,
        last=0.02,
    ),
)
"""The stages of teaching recall, in order."""

TEACHING_RATES: dict[str, dict[Any, float]] = {
    "attention_only": {1: 1.5e-3, 2: 3e-3},
    "all": {"indexer": 3e-3, "self_attn": 1e-3, "embed": 2e-4, "": 5e-4},
}
"""Learning rates of AdamW in the stages: by layer, or by the first part that a name contains."""

AIMS: dict[str, tuple[int, tuple[int, ...]]] = {
    "needle": (2, (0, 1, 2, 3)),
    "previous": (1, (3,)),
    "key": (1, (1,)),
}
"""Layer and heads of each attention target.

`needle`: from the question to the blocks with the answer; `previous`: from the question mark to the
token before; `key`: from a value to its key, two tokens before.
"""
AIM_WEIGHTS = {"needle": 1.0, "previous": 0.3, "key": 0.3}
