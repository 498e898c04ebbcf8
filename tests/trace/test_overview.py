"""What the overview keeps of the text, and what a notebook gets of it."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

import v4kit
from tests.figures.traces import NASTY, flash, imported, routed
from tests.trace.samples import ATTENDED, sample
from v4kit.trace import Trace, overview
from v4kit.trace.leading import coloured_layer, leading
from v4kit.trace.overview import overview_of
from v4kit.trace.store import TraceWriter

ROWS = ("lengths", "experts", "begins")


def saved(trace: Trace, folder: Path) -> dict:
    with zipfile.ZipFile(trace.save(folder / "a.v4trace")) as archive:
        return json.loads(archive.read("overview.json"))


def numbers(row: str) -> list[int]:
    return [int(number) for number in row.split()]


def heaviest(trace: Trace, row: int, layer: int) -> int:
    """The leading expert, by a plain loop."""
    ids = trace.routing["experts"].values[row, layer].tolist()
    if "weights" not in trace.routing:
        return -1
    best, most = -1, -1.0
    for expert, weight in zip(ids, trace.routing["weights"].values[row, layer], strict=True):
        if expert >= 0 and weight > most:
            best, most = expert, weight
    return best


@pytest.mark.parametrize(
    ("trace", "layer"),
    [(routed(90), 5), (imported(), 3), (imported(weights=True), 3), (routed(20, dense=2), 5)],
    ids=["weights and slots", "no weights", "unordered slots", "dense"],
)
def test_every_token_has_its_leading_expert(tmp_path, trace, layer) -> None:
    pieces = saved(trace, tmp_path)["pieces"]
    assert pieces["layer"] == layer
    assert pieces["weighted"] == ("weights" in trace.routing)
    assert pieces["experts"] == [heaviest(trace, row, layer) for row in range(len(trace))]


def test_pieces_are_the_text_of_the_tokens(tmp_path) -> None:
    trace = routed(60, texts=("a", "", "😀é", "\n\n", "床"), documents=3)
    found = saved(trace, tmp_path)
    pieces, end, texts = found["pieces"], 0, []
    for length in pieces["lengths"]:
        texts.append(found["text"][end : end + length])
        end += length
    assert texts == trace.tokens["text"].tolist()
    documents = trace.tokens["document"].tolist()
    assert pieces["begins"] == [0, documents.index(1), documents.index(2)]


def test_parts_that_are_written_apart_make_one_text(tmp_path) -> None:
    trace = routed(90, documents=3)
    with TraceWriter(tmp_path / "run") as writer:
        for start, stop in ((0, 1), (1, 31), (31, 31), (31, 77), (77, 90)):
            writer.append(trace[start:stop])
    assert writer.overview.data() == saved(trace, tmp_path)


@pytest.mark.parametrize(
    ("texts", "tokens"),
    [(("x" * 1_500,), 3), (("x" * 10_000,), 1), (("",), overview.TEXT), (("ab", ""), 3_999)],
)
def test_a_long_text_is_cut(texts, tokens) -> None:
    trace = v4kit.import_routing(
        np.zeros((5_000, 1, 1), int),
        n_experts=2,
        text=[texts[i % len(texts)] for i in range(5_000)],
    )
    found = overview_of(trace)
    lengths = numbers(found["pieces"]["lengths"])
    assert len(lengths) == len(numbers(found["pieces"]["experts"])) == tokens
    assert sum(lengths) == len(found["text"]) <= overview.TEXT
    assert found["text"] == trace.text[: len(found["text"])]
    assert found["tokens"] == 5_000


def test_without_a_router_there_is_text_alone(tmp_path) -> None:
    trace = v4kit.import_routing(
        np.full((4, 2, 1), -1), n_experts=2, text=list("abcd"), layer_kinds=["dense"] * 2
    )
    found = saved(trace, tmp_path)
    assert found["text"] == "abcd"
    assert "pieces" not in found


def test_an_empty_trace_has_empty_rows() -> None:
    found = overview_of(routed(3)[:0])
    assert (found["tokens"], found["text"]) == (0, "")
    assert [found["pieces"][name] for name in ROWS] == ["", "", ""]


@pytest.mark.parametrize(
    ("kinds", "layer"),
    [
        (["dense", "hash", "topk", "topk", "dense"], 3),
        (["hash", "hash"], 1),
        (["dense", "hash", "dense"], 1),
        (["dense"], None),
    ],
)
def test_the_last_learned_layer_colours(kinds, layer) -> None:
    assert coloured_layer(kinds) == layer


def test_no_weight_is_no_reason_to_lead() -> None:
    experts = np.array([[3, 1], [-1, 2], [-1, -1], [4, 5]])
    weights = np.array([[np.nan, 0.1], [9, 0], [np.nan, np.nan], [np.nan, np.nan]])
    assert leading(experts, weights).tolist() == [1, 2, -1, 4]
    assert leading(experts, None).tolist() == [-1, -1, -1, -1]


# for a notebook


@pytest.mark.parametrize("attended", ["none", "strongest each", "full"])
def test_a_notebook_gets_what_the_file_holds(tmp_path, monkeypatch, attended) -> None:
    monkeypatch.setattr(overview, "BLOCK", 7)
    trace = sample(50, **ATTENDED[attended])[5:]
    expected = saved(trace, tmp_path)
    for given in (trace, v4kit.open_trace(tmp_path / "a.v4trace")):
        found = overview_of(given)
        assert found["counts"] == [" ".join(map(str, row)) for row in expected["counts"]]
        found["counts"] = [numbers(row) for row in found["counts"]]
        found["pieces"] |= {name: numbers(found["pieces"][name]) for name in ROWS}
        shares = [data.pop("attention", {}) for data in (found, expected | {})]
        assert shares[0].keys() == shares[1].keys()
        for name, means in shares[0].items():
            np.testing.assert_allclose(means, shares[1][name], atol=2e-6)
        assert found == {key: expected[key] for key in expected if key != "attention"}


def test_a_notebook_gets_json_whatever_the_meta_holds() -> None:
    odd = {
        "losses": np.array([0.5, np.nan]),
        "steps": np.int64(3),
        "path": Path("corpus"),
        "object": {1: object},
        "torn": "\ud800",
        "top_p": float("inf"),
        "sampling": {"seed": None, "stop": ("\n",), "greedy": True},
    }
    trace = routed(30, texts=NASTY, meta=odd)
    found = overview_of(trace)
    written = json.dumps(found, ensure_ascii=False, allow_nan=False)
    assert json.loads(written.encode()) == found
    meta = found["meta"]
    assert (meta["losses"], meta["steps"], meta["path"]) == ([0.5, "nan"], 3, "corpus")
    assert meta["sampling"] == {"seed": None, "stop": ["\n"], "greedy": True}
    assert (meta["torn"], meta["top_p"]) == ("\ufffd", "inf")
    assert meta["object"] == {"1": "<class 'object'>"}


@pytest.mark.parametrize("texts", [("abcd",), tuple("abcd")], ids=["usual", "one character each"])
def test_a_notebook_gets_little(texts) -> None:
    data = overview_of(flash(6_000, texts=texts))
    assert len(json.dumps(data, indent=1)) < 60_000
