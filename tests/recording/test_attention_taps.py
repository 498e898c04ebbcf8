"""Taps on attention and the indexer: live tensors, their intervals, edited choices."""

import numpy as np
import pytest
import torch

import v4kit
from tests import zoo
from tests.attention_reference import eager
from v4kit.errors import InputError

IDS = list(range(20, 60))


def looked(model, kind, **options):
    """The events of one reading in two chunks, and its trace."""
    seen = []
    with model.tap(kind, lambda event: seen.append(event), **options):  # noqa: PLW0108 - returns None
        trace = model.read(IDS, prefill_chunk=25, record=v4kit.Record(attention="full"))
    return seen, trace


@pytest.mark.parametrize("name", ["small", "mixtral", "gpt_oss"])
def test_weights_lie_on_the_intervals_that_are_recorded(name) -> None:
    model = eager(name)
    events, trace = looked(model, "attention")
    assert len(events) == 2 * model.architecture.n_layers
    recorded = trace.attention.compute()
    for event in events:
        weights = event.weights.mean(0)
        for query, position in enumerate(event.positions.tolist()):
            at = recorded.isel(token=position, layer=event.layer)
            live = {
                (int(a), int(b), int(k)): float(w)
                for a, b, k, w in zip(
                    event.start, event.stop, event.kind, weights[query], strict=True
                )
                if w > 0
            }
            kept = {
                (int(a), int(b), int(k)): float(m)
                for a, b, k, m in zip(at["start"], at["stop"], at["kind"], at["mass"], strict=True)
                if m > 0
            }
            assert live == pytest.approx(kept)
            assert float(event.sink.mean(0)[query]) == pytest.approx(float(at["sink"]), abs=1e-6)


def test_indexer_tells_blocks_and_scores() -> None:
    model = zoo.random_model("small")
    events, trace = looked(model, "indexer")
    assert [event.layer for event in events] == [2, 4, 2, 4]
    for event in events:
        assert event.stop.tolist() == [4 * (w + 1) for w in range(event.scores.shape[-1])]
        assert event.start.tolist() == [max(0, 4 * w - 4) for w in range(event.scores.shape[-1])]
        for query, position in enumerate(event.positions.tolist()):
            chosen = [block for block in event.blocks[query].tolist() if block >= 0]
            visible = (position + 1) // 4
            best = event.scores[query, :visible].topk(min(4, visible)).indices.tolist()
            assert sorted(chosen) == sorted(best)
            counted = trace.attention["chosen_blocks"][position, event.layer]
            assert len(chosen) == int(counted)


@pytest.mark.parametrize("layers", [2, [2, 4], None])
def test_blocks_that_are_taken_away_get_nothing(layers) -> None:
    model = zoo.random_model("small")

    def one(event):
        return event.change(blocks=event.blocks[:, :1])

    with model.tap("indexer", one, layers=layers):
        read = model.read(IDS, prefill_chunk=25)
        written = model.generate(IDS, max_new_tokens=5)
    edited = [2] if layers == 2 else [2, 4]
    for trace in (read, written):
        for layer in (2, 4):
            most = trace.attention["chosen_blocks"][:, layer].values.max()
            assert most == (1 if layer in edited else 4)
    untouched = model.read(IDS, prefill_chunk=25)
    assert not np.array_equal(read.tokens["logprob"], untouched.tokens["logprob"])


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        (lambda b: torch.full_like(b[:, :1], 9), "cannot see"),
        (lambda b: torch.full_like(b, -2), "cannot see"),
        (lambda b: b[:, :1].expand(-1, 2), "twice"),
        (lambda b: b.float(), "integers"),
        (lambda b: b[:3], "integers"),
    ],
)
def test_choices_that_can_not_be(blocks, reason) -> None:
    model = zoo.random_model("small")

    def change(event):
        return event.change(blocks=blocks(event.blocks))

    with model.tap("indexer", change), pytest.raises(InputError, match=reason):
        model.read(IDS)


def test_only_routers_and_indexers_can_be_edited() -> None:
    model = zoo.random_model("small")
    with (
        model.tap("attention", lambda event: event),
        pytest.raises(InputError, match='tap "indexer" or "router"'),
    ):
        model.read(IDS)
    with (
        model.tap("indexer", lambda _: 3),
        pytest.raises(InputError, match=r"event\.change"),
    ):
        model.read(IDS)


def test_layers_and_models_without() -> None:
    with (
        pytest.raises(InputError, match="Layer 3 has no indexer; the layers with one are 2, 4"),
        zoo.random_model("small").tap("indexer", print, layers=[2, 3]),
    ):
        pass
    with pytest.raises(InputError, match="none"), zoo.random_model("olmoe").tap("indexer", print):
        pass
    model = zoo.random_model("mixtral")
    with (
        model.tap("attention", print),
        pytest.raises(InputError, match='attn_implementation="eager"'),
    ):
        model.read(IDS)
