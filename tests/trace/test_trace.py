"""Rows, joins, texts and reprs of traces, in memory and on disk."""

import itertools

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import v4kit
from tests.trace.samples import ATTENDED, assert_same, sample
from v4kit.errors import InputError, TraceError

MADE = {name: sample(20, layers=4, **options) for name, options in ATTENDED.items()}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The traces of `MADE`, from disk."""
    folder = tmp_path_factory.mktemp("traces")
    return {name: v4kit.open_trace(trace.save(folder / name)) for name, trace in MADE.items()}


KEYS = st.one_of(
    st.slices(20),
    st.integers(-20, 19),
    st.lists(st.integers(-20, 19), max_size=8),
    st.lists(st.booleans(), min_size=20, max_size=20),
)


@settings(deadline=None, max_examples=60)
@given(key=KEYS, attended=st.sampled_from(sorted(ATTENDED)))
def test_rows(opened, key, attended) -> None:
    """Any key gives the rows that numpy gives; a lazy trace the same ones as one in memory."""
    trace = MADE[attended]
    expected = np.atleast_1d(np.arange(20)[key if isinstance(key, slice | int) else _array(key)])
    part = trace[key]
    assert part.tokens["text"].tolist() == [f"t{row} " for row in expected]
    assert part.tokens.index.tolist() == list(range(len(expected)))
    for name, variable in trace.routing.data_vars.items():
        whole = variable.to_numpy()
        rows = whole if name == "bias" else whole[expected]
        np.testing.assert_array_equal(part.routing[name].to_numpy(), rows)
    if attended != "none":
        whole = trace.attention.isel(token=expected)
        # A slice is as wide as its own rows need.
        whole = whole.isel(source=slice(part.attention.sizes["source"]))
        xr.testing.assert_identical(part.attention.compute(), whole.compute())
    assert_same(opened[attended][key], part)


def _array(key):
    return np.array(key, dtype=None if key else int)


def test_rows_by_column() -> None:
    trace = sample(20)
    part = trace[trace.tokens["label"] == "label 1"]
    assert set(part.tokens["document"]) == {1}


@pytest.mark.parametrize(
    "key", [20, -21, [0, 20], [True] * 19, [True] * 21, [0.0, 1.0], "a", [[0, 1]]]
)
def test_rows_that_are_not_there(key) -> None:
    with pytest.raises(IndexError):
        sample(20)[key]


def test_slices_keep_positions_and_documents() -> None:
    trace = sample(20)
    part = trace[12:15]
    assert part.tokens["position"].tolist() == trace.tokens["position"][12:15].tolist()
    assert part.tokens["position"][0] > 0
    assert part.tokens["document"].tolist() == trace.tokens["document"][12:15].tolist()


@settings(deadline=None, max_examples=25)
@given(
    cuts=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    attended=st.sampled_from(sorted(ATTENDED)),
)
def test_concat(opened, cuts, attended) -> None:
    """Pieces joined are the whole but for the documents' numbers, which count on."""
    bounds = [0, *sorted(cuts), 20]
    pairs = list(itertools.pairwise(bounds))
    whole = sample(20, layers=4, **ATTENDED[attended])
    joined = v4kit.concat([whole[a:b] for a, b in pairs])
    numbers, seen = [], 0
    for a, b in pairs:
        part = whole.tokens["document"][a:b].tolist()
        order = list(dict.fromkeys(part))
        numbers += [seen + order.index(document) for document in part]
        seen += len(order)
    assert joined.tokens["document"].tolist() == numbers
    whole.tokens = whole.tokens.assign(document=np.array(numbers, np.int32))
    assert_same(joined, whole)
    assert_same(v4kit.concat([opened[attended][a:b] for a, b in pairs]), whole)


@pytest.mark.parametrize("attended", ATTENDED)
def test_concat_of_opened_and_made_traces_stays_lazy(opened, tmp_path, attended) -> None:
    joined = v4kit.concat([opened[attended], MADE[attended]])
    assert joined.routing["experts"].chunks
    if attended != "none":
        assert joined.stored_attention.values["sink"].chunks
        assert all(hasattr(layer.values, "dask") for layer in joined.stored_attention.masses)
    again = v4kit.open_trace(joined.save(tmp_path / "b"))
    assert_same(again, v4kit.concat([MADE[attended], MADE[attended]]))


def test_concat_of_one() -> None:
    assert len(v4kit.concat([sample(3)])) == 3


def test_concat_lists_what_differs() -> None:
    joined = v4kit.concat([sample(2, seed=s, run=r) for s, r in ((0, "a"), (0, "b"), (0, "a"))])
    assert joined.meta == {**sample(2).meta, "run": ["a", "b"]}
    joined.meta["sampling"]["stop"].append("x")
    assert sample(2).meta["sampling"]["stop"] == ["\n"]


def test_concat_lists_what_some_lack() -> None:
    assert v4kit.concat([sample(2), sample(2, run="a")]).meta["run"] == [None, "a"]


def test_concat_tells_every_reason_why_there_is_no_attention(tmp_path) -> None:
    """What is joined goes on saying why, also after it was joined again or saved."""
    reasons = ["It was not asked for.", "sdpa returns none.", None]
    known = [{"sources": None, "heads": "mean", "why": why} for why in reasons]
    traces = [sample(2), *(sample(2, attention_meta=meta) for meta in known)]
    for trace in traces[1:]:
        trace.meta["attention"] = trace.meta.pop("attention_meta")
    traces = [v4kit.open_trace(trace.save(tmp_path / "a")) for trace in traces]
    joined = v4kit.concat([v4kit.concat(traces[:2]), v4kit.concat(traces[2:])])
    opened = v4kit.open_trace(joined.save(tmp_path / "b"))
    with pytest.raises(TraceError, match=r"It was not asked for\. sdpa returns none\. Record with"):
        opened.attention  # noqa: B018


def test_concat_leaves_its_parts_alone() -> None:
    for options in ({"attention": 3}, {"attention": "full"}):
        parts = [sample(4, **options), sample(4, **options)]
        joined = v4kit.concat(parts)
        joined.tokens["id"] = 0
        joined.routing["experts"][:] = 0
        joined.stored_attention.values["sink"][:] = 0
        for layer in joined.stored_attention.masses:
            layer.values[:] = 0
        for part in parts:
            assert_same(part, sample(4, **options))


def _bare(attention, *, without=False):
    """A trace with attention, or the same one with its attention taken out."""
    trace = sample(4, attention=attention)
    kept = None if without else trace.stored_attention
    return v4kit.Trace(trace.tokens, trace.routing, trace.meta, kept)


@pytest.mark.parametrize(
    ("others", "error", "message"),
    [
        ([], InputError, "at least one"),
        ([sample(4), sample(4, n_experts=9)], TraceError, "architectures"),
        ([sample(4), sample(4, layers=2)], TraceError, "architectures"),
        ([sample(4), sample(4, routing="ids")], TraceError, "settings"),
        ([sample(4), sample(4, seed=1)], TraceError, "biases"),
        ([_bare(3), _bare(3, without=True)], TraceError, "different attention"),
        *(
            ([sample(4, attention=3), sample(4, **other)], TraceError, "different attention")
            for other in (
                {"attention": 4},
                {"attention": "full"},
                {"attention": 3, "heads": "each"},
                {"attention": 3, "pooling": True},
            )
        ),
    ],
)
def test_traces_that_do_not_join(others, error, message) -> None:
    with pytest.raises(error, match=message):
        v4kit.concat(others)


def test_text_and_completion() -> None:
    trace = sample(5, texts=["<bos>", "Hé", "", "llo", "<eos>"])
    trace.tokens = trace.tokens.assign(
        phase=["prompt", "prompt", "generated", "generated", "generated"],
        special=[True, False, False, False, True],
    )
    assert (trace.text, trace.completion) == ("<bos>Héllo<eos>", "llo")
    assert (trace[:0].text, trace[:0].completion) == ("", "")


def test_layers_are_those_with_a_router() -> None:
    trace = v4kit.import_routing([[[-1], [0], [-1]]], n_experts=1)
    assert trace.layers == (1,)


@pytest.mark.parametrize("model", ["m", "m" * 500, "a/ü漢字" * 40, ["one", "two"] * 50, None, 3])
@pytest.mark.parametrize("rows", [1, 10**5])
def test_reprs_are_short(model, rows) -> None:
    experts = np.zeros((rows, 1, 1), np.int16)
    trace = v4kit.import_routing(experts, n_experts=256, document=np.arange(rows))
    trace.meta["model"] = model
    assert len(repr(trace)) <= 120
    assert repr(trace).startswith(f"Trace({rows:,} token")
    assert repr(trace).endswith(")")


def test_columns_have_one_type_whatever_is_given() -> None:
    types = {name: str(dtype) for name, dtype in sample(0).tokens.dtypes.items() if name != "index"}
    assert types == {n: str(d) for n, d in sample(3).tokens.dtypes.items()}
    assert types["text"] == types["label"] == "str"
    bare = v4kit.import_routing([[[0]]], n_experts=1).tokens
    assert {name: str(dtype) for name, dtype in bare.dtypes.items()} == types
    assert pd.isna(bare["logprob"][0])
    assert bare[["id", "predicted", "position", "document"]].to_numpy().tolist() == [[-1, -1, 0, 0]]
