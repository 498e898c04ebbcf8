"""Rows, joins, texts and reprs of traces, in memory and on disk."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import v4kit
from tests.trace.samples import assert_same, sample
from v4kit.errors import InputError, TraceError


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return v4kit.open_trace(sample(20).save(tmp_path_factory.mktemp("trace") / "a.v4trace"))


KEYS = st.one_of(
    st.slices(20),
    st.integers(-20, 19),
    st.lists(st.integers(-20, 19), max_size=8),
    st.lists(st.booleans(), min_size=20, max_size=20),
)


@settings(deadline=None, max_examples=60)
@given(key=KEYS)
def test_rows(opened, key) -> None:
    """Any key gives the rows that numpy gives; a lazy trace the same ones as one in memory."""
    trace = sample(20)
    expected = np.atleast_1d(np.arange(20)[key if isinstance(key, slice | int) else _array(key)])
    part = trace[key]
    assert part.tokens["position"].tolist() == expected.tolist()
    assert part.tokens.index.tolist() == list(range(len(expected)))
    for name, variable in trace.routing.data_vars.items():
        whole = variable.to_numpy()
        rows = whole if name == "bias" else whole[expected]
        np.testing.assert_array_equal(part.routing[name].to_numpy(), rows)
    assert_same(opened[key], part)


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
    assert part.tokens["position"].tolist() == [12, 13, 14]
    assert part.tokens["document"].tolist() == trace.tokens["document"][12:15].tolist()


@settings(deadline=None, max_examples=25)
@given(cuts=st.lists(st.integers(0, 20), min_size=1, max_size=4))
def test_concat(opened, cuts) -> None:
    """Pieces joined are the whole but for the documents' numbers, which count on."""
    bounds = [0, *sorted(cuts), 20]
    pairs = list(itertools.pairwise(bounds))
    joined = v4kit.concat([sample(20)[a:b] for a, b in pairs])
    whole = sample(20)
    numbers, seen = [], 0
    for a, b in pairs:
        part = whole.tokens["document"][a:b].tolist()
        order = list(dict.fromkeys(part))
        numbers += [seen + order.index(document) for document in part]
        seen += len(order)
    assert joined.tokens["document"].tolist() == numbers
    whole.tokens = whole.tokens.assign(document=np.array(numbers, np.int32))
    assert_same(joined, whole)
    assert_same(v4kit.concat([opened[a:b] for a, b in pairs]), whole)


def test_concat_of_opened_and_made_traces_stays_lazy(opened, tmp_path) -> None:
    joined = v4kit.concat([opened, sample(20)])
    assert joined.routing["experts"].chunks
    again = v4kit.open_trace(joined.save(tmp_path / "b"))
    assert_same(again, v4kit.concat([sample(20), sample(20)]))


def test_concat_of_one() -> None:
    assert len(v4kit.concat([sample(3)])) == 3


def test_concat_lists_what_differs() -> None:
    joined = v4kit.concat([sample(2, seed=s, run=r) for s, r in ((0, "a"), (0, "b"), (0, "a"))])
    assert joined.meta == {**sample(2).meta, "run": ["a", "b"]}
    joined.meta["sampling"]["stop"].append("x")
    assert sample(2).meta["sampling"]["stop"] == ["\n"]


def test_concat_lists_what_some_lack() -> None:
    assert v4kit.concat([sample(2), sample(2, run="a")]).meta["run"] == [None, "a"]


def test_concat_leaves_its_parts_alone() -> None:
    parts = [sample(4), sample(4)]
    joined = v4kit.concat(parts)
    joined.tokens["id"] = 0
    joined.routing["experts"][:] = 0
    for part in parts:
        assert_same(part, sample(4))


@pytest.mark.parametrize(
    ("others", "error", "message"),
    [
        ([], InputError, "at least one"),
        ([sample(4), sample(4, n_experts=9)], TraceError, "architectures"),
        ([sample(4), sample(4, layers=2)], TraceError, "architectures"),
        ([sample(4), sample(4, routing="ids")], TraceError, "settings"),
        ([sample(4), sample(4, seed=1)], TraceError, "biases"),
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
