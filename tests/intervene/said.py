"""What the routers themselves said in a pass, and what an edited trace is to hold by it."""

import math

import numpy as np
import pytest

from tests.references import Spy, bias_of, is_hash, open_experts, scores_of

IDS = [0, *range(30, 75)]


class Said:
    """One token in one layer: what its router said, in float64."""

    def __init__(self, model, layer, logits, weights, ids):
        self.logits = logits.astype(np.float64).tolist()
        self.bias = bias_of(model.hf, layer)
        self.scores = scores_of(model.hf)(logits.astype(np.float64).tolist())
        self.selection = [s + b for s, b in zip(self.scores, self.bias, strict=True)]
        self.used = dict(zip(ids.tolist(), weights.tolist(), strict=True))
        self.model, self.k = model, len(ids)
        self.hashed = is_hash(model.hf, layer)

    def best(self, selection, k=None):
        """The experts that are chosen by some scores."""
        allowed = open_experts(self.model.hf, selection)
        order = sorted(allowed, key=lambda e: (-selection[e], e))
        return order[: k or self.k]

    def weigh(self, experts, scores=None):
        """Weights of experts by the family's rule."""
        found = {e: (scores or self.scores)[e] for e in experts}
        a = self.model.architecture
        total = math.fsum(found.values()) if a.normalized else 1.0
        return {e: a.scale * score / total for e, score in found.items()}


def edited(model, *edits, decoded=0):
    """The trace of an edited pass, and what the routers said in it, by row and layer.

    With `decoded` tokens the text is written on: so many passes of one token follow.
    """
    with Spy(model.hf) as spy, model.edit(*edits) as editing:
        if decoded:
            trace = model.generate(IDS, max_new_tokens=decoded + 1, prefill_chunk=11)
        else:
            trace = model.read(IDS, prefill_chunk=None)
    (run,) = spy.runs()
    said = {
        (row, layer): Said(model, layer, logits[row], weights[row], ids[row])
        for layer, (logits, weights, ids) in run.gates.items()
        for row in range(len(IDS) + decoded)
    }
    return trace, said, editing


def as_if_unedited(trace):
    """The routing of an edited trace in which nothing was displaced, without saying so."""
    assert (trace.routing["displaced"] == -1).all()
    return trace.routing.drop_vars("displaced")


def compare(trace, said, expected):
    """Assert that a trace holds the expected weights by expert, in every row and layer."""
    experts, weights = (trace.routing[n].to_numpy() for n in ("experts", "weights"))
    for (row, layer), one in said.items():
        wanted = expected(one, row, layer)
        found = dict(zip(experts[row, layer].tolist(), weights[row, layer].tolist(), strict=True))
        assert found.keys() == wanted.keys(), (row, layer)
        for expert, weight in wanted.items():
            assert found[expert] == pytest.approx(weight, rel=2e-5, abs=1e-7), (row, layer)
