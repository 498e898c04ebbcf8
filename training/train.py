"""Train the tiny model: seeded, by steps, with checkpoints that a later run resumes from.

`python -m training.train --data data --tokenizer tokenizer --out run --steps 4000 --workers 2`.
With several workers each takes a part of every batch and gradients are averaged (gloo). A decay
that has not begun can still be moved: run again with other `--steps`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from torch import nn

from training import fast
from training.data import Corpus
from training.settings import ARCHITECTURE, Schedule
from training.v4 import ATTENTION, IndexerLoss, RoutingBias, attention, hash_table

_ADAM_NAMES = ("embed", "lm_head", "_hc", "hc_", "gate.weight", "position_bias", "indexer")


def build(schedule: Schedule, corpus: Corpus) -> Any:
    """Return the untrained model with balanced hash tables."""
    from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

    torch.manual_seed(schedule.seed)
    config = DeepseekV4Config(**ARCHITECTURE)
    model = DeepseekV4ForCausalLM(config)
    frequency = corpus.frequency(config.vocab_size)
    for index, layer in enumerate(model.model.layers):
        if layer.mlp.is_hash:
            experts, k = config.n_routed_experts, config.num_experts_per_tok
            layer.mlp.gate.tid2eid.copy_(hash_table(frequency, experts, k, schedule.seed + index))
    return model


def optimisers(model: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Return Muon for hidden matrices and AdamW for everything else, as the V4 report does."""
    matrices, decayed, plain = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and not any(part in name for part in _ADAM_NAMES):
            matrices.append(parameter)
        elif parameter.ndim >= 2 and "position_bias" not in name:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    muon = torch.optim.Muon(
        matrices,
        lr=schedule.muon,
        weight_decay=schedule.weight_decay,
        momentum=0.95,
        adjust_lr_fn="original",
    )
    groups = [
        {"params": decayed, "weight_decay": schedule.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=schedule.adam, betas=(0.9, 0.95), eps=1e-9)
    for optimiser, rate in ((muon, schedule.muon), (adam, schedule.adam)):
        for group in optimiser.param_groups:
            group["peak"] = rate
    return [muon, adam]


def share_gradients(model: nn.Module) -> None:
    """Average all gradients over the workers."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch._utils._flatten_dense_tensors(gradients)
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(
        gradients, torch._utils._unflatten_dense_tensors(flat, gradients), strict=True
    ):
        gradient.copy_(part)


class Run:
    """Model, optimisers and step of one training, with checkpoints."""

    def __init__(
        self, schedule: Schedule, corpus: Corpus, out: Path, *, compiled: bool = True
    ) -> None:
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        self.schedule, self.corpus, self.out, self.step = schedule, corpus, out, 0
        self.model = build(schedule, corpus)
        if not (out / "untrained").exists() and self.leads:
            self.save("untrained")
        fast.install(compiled=compiled)
        self.loss = fast.fuse(fast.loss) if compiled else fast.loss
        self.indexer = IndexerLoss(self.model, ARCHITECTURE["index_topk"])
        self.bias = RoutingBias(self.model, ARCHITECTURE["n_routed_experts"])
        ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attention(self.indexer))
        eager_mask = ALL_MASK_ATTENTION_FUNCTIONS["eager"]
        ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, eager_mask)
        self.model.config._attn_implementation = ATTENTION
        self.model.set_experts_implementation("grouped_mm")
        self.optimisers = optimisers(self.model, schedule)
        self.model.train()
        self.resume()

    @property
    def leads(self) -> bool:
        """Whether this worker writes files."""
        return not dist.is_initialized() or dist.get_rank() == 0

    def save(self, name: str) -> None:
        """Write the model for transformers, in float32, into a folder of the run."""
        implementation = self.model.config._attn_implementation
        self.model.config._attn_implementation = "eager"
        self.model.save_pretrained(self.out / name)
        self.model.config._attn_implementation = implementation

    def checkpoint(self) -> None:
        """Write everything that a later run needs, replacing the previous checkpoint at once."""
        state = {
            "step": self.step,
            "schedule": asdict(self.schedule),
            "model": self.model.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
        }
        partial = self.out / "checkpoint.partial"
        torch.save(state, partial)
        partial.replace(self.out / "checkpoint.pt")

    def resume(self) -> None:
        """Continue from the last checkpoint, if there is one."""
        path = self.out / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)

    def advance(self) -> dict[str, Any]:
        """Take one step and return what is logged of it."""
        schedule, step = self.schedule, self.step
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * schedule.rate(step)
        self.indexer.dense(step < schedule.dense_indexer)
        batch = self.corpus.batch(schedule, step)
        if dist.is_initialized():
            batch = batch[dist.get_rank() :: dist.get_world_size()]
        loss = self.loss(self.model(input_ids=batch, use_cache=False).logits, batch)
        divergence = self.indexer.take()
        (loss + divergence).backward()
        share_gradients(self.model)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), schedule.clip)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        load = self.bias.update(schedule.bias_speed(step))
        self.step += 1
        return {
            "step": self.step,
            "tokens": self.step * schedule.tokens,
            "loss": round(loss.item(), 4),
            "divergence": round(divergence.item(), 4),
            "gradient": round(float(norm), 3),
            "max_violation": [
                round(v, 2) for v in (load.max(1).values / load.mean(1) - 1).tolist()
            ],
        }


def work(rank: int, options: argparse.Namespace) -> None:
    """Train as one of the workers until the last step."""
    torch.set_num_threads(1)
    if options.workers > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(options.port))
        dist.init_process_group("gloo", rank=rank, world_size=options.workers)
    schedule = Schedule(
        steps=options.steps, decay=options.decay or options.steps // 3, tokens=options.tokens
    )
    corpus = Corpus(options.data, Tokenizer.from_file(str(options.tokenizer / "tokenizer.json")))
    options.out.mkdir(parents=True, exist_ok=True)
    run = Run(schedule, corpus, options.out, compiled=not options.no_compile)
    last = min(schedule.steps, options.stop or schedule.steps)
    start, first = time.time(), run.step
    with (options.out / "log.jsonl").open("a") as log:
        while run.step < last:
            record = run.advance()
            if not run.leads:
                continue
            if run.step % 20 == 0:
                record["seconds_per_step"] = round((time.time() - start) / (run.step - first), 3)
                log.write(json.dumps(record) + "\n")
                log.flush()
            if run.step % options.checkpoint == 0 or run.step == last:
                run.checkpoint()
    if run.leads and run.step == schedule.steps:
        run.save("trained")
        settings = json.dumps(asdict(schedule), indent=1)
        (options.out / "trained" / "schedule.json").write_text(settings)
    if dist.is_initialized():
        dist.destroy_process_group()


def main() -> None:
    """Parse the options and start the workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--tokenizer", type=Path, default=Path("tokenizer"))
    parser.add_argument("--out", type=Path, default=Path("run"))
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--decay", type=int, default=0, help="default: a third of the steps")
    parser.add_argument("--checkpoint", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--stop", type=int, default=0, help="end this run after that step")
    parser.add_argument("--no-compile", action="store_true", help="no compiler, slower steps")
    parser.add_argument("--tokens", type=int, default=4_096, help="tokens of a step")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--port", type=int, default=29_531)
    options = parser.parse_args()
    if options.workers == 1:
        work(0, options)
    else:
        torch.multiprocessing.spawn(work, args=(options,), nprocs=options.workers)


if __name__ == "__main__":
    main()
