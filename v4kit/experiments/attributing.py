"""Who wrote this word: a logit as the sum of what every part of the model added to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr

from v4kit.core import HASH, NONE
from v4kit.engines import Model
from v4kit.errors import InputError, UnsupportedModel
from v4kit.experiments.documents import (
    check_edits,
    check_pair,
    chunk_of,
    prompt_of,
    read_until,
)
from v4kit.experiments.writing import EXPERT, directions, state_of
from v4kit.trace import Trace

LARGEST = {torch.float64: 1e-4, torch.float32: 1e-4}
"""Residual above which the summands are not those of the model, by the dtype of its state; some ten
times what rounding leaves. Streams mixed the wrong way round leave 1e-3 and more."""
_ROUGH = 2e-2
"""The same for dtypes of 16 bits."""
SUMMAND = "summand"
Target = int | str | tuple[int | str, int | str]


def attribution(model: Model, trace: Trace, token: int, target: Target | None = None) -> xr.Dataset:
    """Return every part's share in a logit: experts, shared experts, attention, the embedding.

    The state that logits are read from is a sum of what the blocks wrote, also through several
    residual streams: those are mixed by scalars of the token, so each block has one factor α
    (`v4kit.recording.streams`; DeepSeek-V4's hyper-connections). With the divisor of the final norm
    and all these factors taken as they are, the logit of u is the sum of α · part · (γ ⊙ u) ÷ rms,
    exactly. It tells what each part wrote towards the word itself, its *direct* effect: what later
    blocks made of it counts as theirs. What would happen without a part is for an intervention to
    say: `v4kit.ablate`.

    The model reads the token's document once more, in float64 sums of its own outputs; edits of
    `model.edit` act as they do elsewhere, and those that the trace was recorded under have to act.

    Args:
        model: The model.
        trace: A trace of it.
        token: Row of the trace after which the logit stands. Who wrote the word in row 12? Give 11.
        target: Id or text of one token; a pair of them for the difference of their logits. The
            token that follows in the document if not given, or else the predicted one.

    Returns:
        Over `summand`: `summands`, in logits; coordinates `part` ("embedding", "attention",
        "expert", "shared", "dense"), `layer`, `slot` (the router's own) and `expert`, −1 where
        there is none, and `hashed`, an expert that a table named. Scalars: `total`, their sum;
        `logit`, the model's own; `residual`, the difference ÷ Σ|summands|: rounding, below 1e-5 in
        float32; in bfloat16 an error bar. Attributes `token`, `target` (ids), `text`,
        `target_text`.

    Raises:
        InputError: No such row or target; the trace is of another model, begins amid a document, or
            was recorded under edits that do not act now.
        UnsupportedModel: The residual is above 1e-4, or above 2e-2 in bfloat16: the sum is not this
            model's logit.
    """
    check_pair(model, trace)
    check_edits(model, trace)
    ids = read_until(trace, token)
    row = int(token) % len(trace)
    targets = _targets(model, trace, row, target)
    state = state_of(model, ids, chunk_of(trace), prompt_of(trace, row))
    toward, signs = directions(model, targets, state.final), np.array([1.0, -1.0])[: len(targets)]
    values = np.array([float(signs @ (toward @ one.vector).numpy()) for one in state.written])
    logit = float(signs @ state.logits[targets].numpy())
    residual = abs(values.sum() - logit) / np.abs(values).sum()
    if not residual <= LARGEST.get(state.dtype, _ROUGH):
        raise UnsupportedModel(
            f"The summands add up to {values.sum():.4f}, but the model's logit is {logit:.4f}: "
            f"{residual:.1%} of all that was added is missing, so this model's state is not the "
            f"sum that v4kit knows of {model.family.model_type} models. Check the version of "
            "transformers."
        )
    coords: dict[str, Any] = {
        name: (SUMMAND, [getattr(one, name) for one in state.written])
        for name in ("part", "layer", "slot", "expert")
    }
    kinds = [layer.routing for layer in model.architecture.layers]
    hashed = [one.part == EXPERT and kinds[one.layer] == HASH for one in state.written]
    data = {"summands": (SUMMAND, values), "total": values.sum(), "logit": logit}
    words = [model.tokenizer.decode([one]) for one in targets]
    attrs = {
        "token": row,
        "target": targets,
        "text": trace.tokens["text"].iloc[row],
        "target_text": words[0] if len(words) == 1 else words,
    }
    return xr.Dataset(
        data | {"residual": residual}, coords=coords | {"hashed": (SUMMAND, hashed)}, attrs=attrs
    )


def _targets(model: Model, trace: Trace, row: int, target: Any) -> list[int]:
    """Return one id, or two for a difference.

    Raises:
        InputError: They are no tokens of the model, or none is known.
    """
    if target is not None:
        several = target if isinstance(target, tuple) else (target,)
        ids = [_id(model, one) for one in several] if 0 < len(several) <= 2 else []
        if not ids or len(set(ids)) < len(ids):
            raise InputError(
                f"target is one token, or a pair of two different ones; given was {target!r}."
            )
        return ids
    documents = trace.tokens["document"]
    if row + 1 < len(trace) and documents.iloc[row + 1] == documents.iloc[row]:
        return [int(trace.tokens["id"].iloc[row + 1])]
    predicted = int(trace.tokens["predicted"].iloc[row])
    if predicted == NONE:
        raise InputError(
            f"No token follows row {row}, and the trace does not tell which one the model predicts "
            "there. Give a target."
        )
    return [predicted]


def _id(model: Model, token: Any) -> int:
    if isinstance(token, str):
        ids = model.tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise InputError(
                f"{token!r} is {len(ids)} tokens for this model, and a logit is of one. Give one "
                "token's text, with the blank before it, or an id."
            )
        return int(ids[0])
    size = model.architecture.vocabulary
    whole = isinstance(token, (int, np.integer)) and not isinstance(token, bool)
    if not whole or not 0 <= token < size:
        raise InputError(f"A target is a token's text or an id below {size}; given was {token!r}.")
    return int(token)
