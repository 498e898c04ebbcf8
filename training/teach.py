"""Teach a trained model to recall values from lists, in the stages of `training.settings`.

`python -m training.teach --start run/checkpoint.pt --data data --tokenizer tokenizer --out taught`.
The model of the first training does not find recall by itself in the tokens that a CPU affords. So
attention is first told where the answer stands; the last stage is without that target.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from training.data import Corpus
from training.recall import Batch, Words, batch
from training.settings import AIM_WEIGHTS, AIMS, STAGES, TEACHING_RATES, Schedule, Stage
from training.train import Run
from training.v4 import ATTENTION, attention

if TYPE_CHECKING:
    from collections.abc import Iterator


class Aims:
    """Collects −log of the attention that the aimed heads give to where they should look."""

    def __init__(self) -> None:
        self.batch: Batch | None = None
        self.terms: dict[str, torch.Tensor] = {}
        self.mass: dict[str, float] = {}

    def __call__(self, module: Any, weights: torch.Tensor) -> None:
        """Keep the terms of one layer's weights `[batch, head, query, token and block]`."""
        if self.batch is None:
            return
        for name, (layer, heads) in AIMS.items():
            if module.layer_idx == layer:
                self._keep(name, self._masses(name, weights[:, list(heads)], self.batch))

    @staticmethod
    def _masses(name: str, weights: torch.Tensor, batch: Batch) -> torch.Tensor:
        if name == "needle":
            on = weights[..., -batch.needles.shape[-1] :] * batch.needles.unsqueeze(1)
            return on.sum(-1).transpose(1, 2)[batch.needles.any(-1)]
        rows, back = (batch.asks, 1) if name == "previous" else (batch.marks, 2)
        sequence, row = rows.nonzero(as_tuple=True)
        return weights[sequence, :, row, row - back]

    def _keep(self, name: str, masses: torch.Tensor) -> None:
        if masses.numel():
            self.terms[name] = -(masses + 1e-4).log().mean()
            self.mass[name] = masses.detach().mean().item()

    def take(self) -> torch.Tensor:
        """Return the weighted sum of the terms and forget them."""
        terms = [AIM_WEIGHTS[name] * term for name, term in self.terms.items()]
        self.terms = {}
        return torch.stack(terms).sum() if terms else torch.zeros(())


def optimiser(model: Any, stage: Stage) -> torch.optim.Optimizer:
    """Return AdamW for what a stage trains; everything else takes no gradient."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if stage.attention_only:
            rates = TEACHING_RATES["attention_only"]
            found = [r for layer, r in rates.items() if f"layers.{layer}.self_attn" in name]
        else:
            found = [r for part, r in TEACHING_RATES["all"].items() if part in name]
        parameter.requires_grad_(bool(found))
        if found:
            decay = 0.02 if parameter.ndim >= 2 and not stage.attention_only else 0.0
            groups.setdefault((found[0], decay), []).append(parameter)
    described = [
        {"params": parameters, "peak": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]
    return torch.optim.AdamW(described, lr=1.0, betas=(0.9, 0.95), eps=1e-9)


@contextmanager
def shortened(model: Any, layers: int) -> Iterator[None]:
    """Run only the first layers of a model."""
    whole = model.model.layers
    model.model.layers = nn.ModuleList(whole[:layers])
    try:
        yield
    finally:
        model.model.layers = whole


class Teaching:
    """A run that goes through the stages, each with an optimiser of its own."""

    def __init__(self, run: Run, words: Words, stages: tuple[Stage, ...], seed: int) -> None:
        self.run, self.words, self.stages, self.seed = run, words, stages, seed
        self.aims = Aims()
        ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attention(run.indexer, self.aims))

    def losses(self, stage: Stage, made: Batch) -> dict[str, torch.Tensor]:
        """Return the terms of a batch's loss and, for the log, the share of right answers."""
        model = self.run.model
        self.aims.batch = made if stage.target else None
        if stage.attention_only:
            with shortened(model, 1 + max(layer for layer, _ in AIMS.values())):
                model.model(input_ids=made.ids, use_cache=False)
            return {"target": stage.target * self.aims.take(), "indexer": self.run.indexer.take()}
        logits = model(input_ids=made.ids, use_cache=False).logits[:, :-1]
        following = made.ids[:, 1:]
        nats = F.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="none")
        weight = made.weight[:, 1:]
        right = (logits.detach().argmax(-1) == following)[made.answers[:, 1:]]
        self.aims.mass["right"] = right.float().mean().item()
        return {
            "text": (nats.view_as(following) * weight).sum() / weight.sum(),
            "target": stage.target * self.aims.take(),
            "indexer": self.run.indexer.take(),
        }

    def stage(self, number: int, log: Any) -> None:
        """Take all steps of one stage."""
        stage, run = self.stages[number], self.run
        steps = optimiser(run.model, stage)
        run.indexer.dense(stage.dense or stage.attention_only)
        start = time.time()
        for step in range(stage.steps):
            for group in steps.param_groups:
                group["lr"] = group["peak"] * stage.rate(step)
            rng = np.random.default_rng([self.seed, number, step])
            terms = self.losses(stage, batch(rng, run.corpus, self.words, stage, step))
            torch.stack(list(terms.values())).sum().backward()
            nn.utils.clip_grad_norm_(run.model.parameters(), run.schedule.clip)
            steps.step()
            steps.zero_grad()
            if stage.bias:
                run.bias.update(stage.bias * stage.rate(step))
            if step % 20 == 19:
                values = {name: round(term.item(), 3) for name, term in terms.items()}
                seen = {name: round(mass, 3) for name, mass in self.aims.mass.items()}
                seconds = round((time.time() - start) / (step + 1), 2)
                record = {"stage": stage.name, "step": step + 1, "seconds_per_step": seconds}
                log.write(json.dumps({**record, **values, "seen": seen}) + "\n")
                log.flush()

    def save(self, number: int, started: dict[str, Any], path: Path) -> None:
        """Write the model after a stage, with how it came about, as `training.ship` reads it."""
        state = {
            "step": started["step"],
            "schedule": started["schedule"],
            "model": self.run.model.state_dict(),
            "teaching": {
                "seed": self.seed,
                "stages": [asdict(stage) for stage in self.stages[: number + 1]],
                "rates": json.loads(json.dumps(TEACHING_RATES)),
                "aims": json.loads(json.dumps({"heads": AIMS, "weights": AIM_WEIGHTS})),
            },
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)


def main() -> None:
    """Parse the options and go through the stages that are not done yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=Path, default=Path("run/checkpoint.pt"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--tokenizer", type=Path, default=Path("tokenizer"))
    parser.add_argument("--out", type=Path, default=Path("taught"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-compile", action="store_true", help="no compiler, slower steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(options.tokenizer / "tokenizer.json"))
    options.out.mkdir(parents=True, exist_ok=True)
    saved = [options.out / f"{n}-{stage.name}.pt" for n, stage in enumerate(STAGES)]
    done = sum(path.exists() for path in saved)
    started = torch.load(options.start, weights_only=True)
    # The first training's class builds the model; in a folder of its own it resumes nothing.
    corpus = Corpus(options.data, tokenizer)
    schedule = Schedule(**started["schedule"])
    run = Run(schedule, corpus, options.out / "first", compiled=not options.no_compile)
    state = torch.load(saved[done - 1], weights_only=True) if done else started
    run.model.load_state_dict(state["model"])
    teaching = Teaching(run, Words.of(tokenizer), STAGES, options.seed)
    with (options.out / "log.jsonl").open("a") as log:
        for number in range(done, len(STAGES)):
            teaching.stage(number, log)
            teaching.save(number, started, saved[number])
    shutil.copy(saved[-1], options.out / "checkpoint.pt")


if __name__ == "__main__":
    main()
