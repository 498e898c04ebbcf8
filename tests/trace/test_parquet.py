"""The Parquet tables hold what the trace holds, row by row."""

import numpy as np
import pandas as pd
import pytest

import v4kit
from tests.trace.samples import ATTENDED, LEVELS, sample
from v4kit.errors import TraceWriteError, V4KitError

SHARES = ("sink", "window", "compressed", "rest", "entropy_bits")


def rows_of(trace) -> list[tuple]:
    """Token, layer, slot and values of every expert used, by plain loops."""
    names = [n for n in ("experts", "weights", "scores") if n in trace.routing]
    arrays = [trace.routing[name].to_numpy() for name in names]
    return [
        (token, layer, slot, *(array[token, layer, slot] for array in arrays))
        for token in range(len(trace))
        for layer in range(arrays[0].shape[1])
        for slot in range(arrays[0].shape[2])
        if arrays[0][token, layer, slot] != -1
    ]


@pytest.mark.parametrize("routing", LEVELS)
@pytest.mark.parametrize("rows", [0, 1, 30])
def test_tables(tmp_path, monkeypatch, routing, rows) -> None:
    monkeypatch.setattr("v4kit.trace.parquet._ROWS", 8)
    trace = sample(rows, routing=routing)
    assert trace.to_parquet(tmp_path / "out") == tmp_path / "out"
    tokens = pd.read_parquet(tmp_path / "out" / "tokens.parquet")
    pd.testing.assert_frame_equal(tokens.drop(columns="token"), trace.tokens)
    assert tokens["token"].tolist() == list(range(rows))
    table = pd.read_parquet(tmp_path / "out" / "routing.parquet")
    assert list(map(tuple, table.to_numpy())) == [tuple(map(float, r)) for r in rows_of(trace)]
    assert [str(t) for t in table.dtypes[:4]] == ["int64", "int16", "int16", "int16"]


def sources_of(trace) -> list[tuple]:
    """Token, layer, (head,) interval, kind and mass of every source, by plain loops."""
    found = trace.attention.compute()
    kinds, mass = found["kind"].to_numpy(), found["mass"].to_numpy()
    start, stop = found["start"].to_numpy(), found["stop"].to_numpy()
    return [
        (*at[:-1], start[at], stop[at], ("window", "block")[kinds[at]], mass[at])
        for at in np.ndindex(kinds.shape)
        if kinds[at] != -1
    ]


def layers_of(trace) -> list[tuple]:
    """Token, layer, (head) and what stands there, by plain loops."""
    found = trace.attention.compute()
    names = [*SHARES, "visible_blocks", "chosen_blocks"]
    sink = found["sink"].to_numpy()
    return [
        (*at, *(found[name].to_numpy()[at[: found[name].ndim]] for name in names))
        for at in np.ndindex(sink.shape)
        if not np.isnan(sink[at])
    ]


@pytest.mark.parametrize("attended", [name for name in ATTENDED if name != "none"])
@pytest.mark.parametrize("rows", [0, 1, 30])
def test_tables_of_attention(tmp_path, monkeypatch, attended, rows) -> None:
    monkeypatch.setattr("v4kit.trace.parquet._ROWS", 8)
    monkeypatch.setattr("v4kit.trace.parquet._SOURCES", 60)
    trace = sample(rows, layers=4, **ATTENDED[attended])
    opened = v4kit.open_trace(trace.save(tmp_path / "a"))
    for number, given in enumerate((trace, opened)):
        folder = given.to_parquet(tmp_path / str(number))
        heads = ["head"] if "each" in attended else []
        table = pd.read_parquet(folder / "attention.parquet")
        columns = ["token", "layer", *heads, "start", "stop", "kind", "mass"]
        assert table.columns.tolist() == columns
        assert list(map(tuple, table.to_numpy())) == sources_of(trace)
        table = pd.read_parquet(folder / "attention_layers.parquet")
        blocks = ["visible_blocks", "chosen_blocks"]
        assert table.columns.tolist() == ["token", "layer", *heads, *SHARES, *blocks]
        assert list(map(tuple, table.to_numpy())) == layers_of(trace)
        types = {str(table[name].dtype) for name in ["layer", *heads]}
        assert types == {"int16"}


def test_tables_of_an_opened_trace(tmp_path) -> None:
    opened = v4kit.open_trace(sample(30).save(tmp_path / "a"))
    opened[3:].to_parquet(str(tmp_path / "out"))
    table = pd.read_parquet(tmp_path / "out" / "routing.parquet")
    assert len(table) == len(rows_of(sample(30)[3:]))


def test_writing_again_replaces(tmp_path) -> None:
    sample(30, attention=3).to_parquet(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    sample(5).to_parquet(tmp_path)
    assert len(pd.read_parquet(tmp_path / "tokens.parquet")) == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["routing.parquet", "tokens.parquet"]


def test_a_users_columns_are_kept(tmp_path) -> None:
    trace = sample(3)
    trace.tokens["mine"] = np.arange(3.0)
    trace.to_parquet(tmp_path)
    assert pd.read_parquet(tmp_path / "tokens.parquet")["mine"].tolist() == [0, 1, 2]


def test_a_place_that_is_a_file(tmp_path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(TraceWriteError, match="could not be written"):
        sample(3).to_parquet(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


def test_without_pyarrow(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(V4KitError, match=r"pip install v4kit\[parquet\]"):
        sample(3).to_parquet(tmp_path / "out")
    assert not (tmp_path / "out").exists()
