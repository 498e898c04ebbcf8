"""The Parquet tables hold what the trace holds, row by row."""

import numpy as np
import pandas as pd
import pytest

import v4kit
from tests.trace.samples import LEVELS, sample
from v4kit.errors import TraceWriteError, V4KitError


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


def test_tables_of_an_opened_trace(tmp_path) -> None:
    opened = v4kit.open_trace(sample(30).save(tmp_path / "a"))
    opened[3:].to_parquet(str(tmp_path / "out"))
    table = pd.read_parquet(tmp_path / "out" / "routing.parquet")
    assert len(table) == len(rows_of(sample(30)[3:]))


def test_writing_again_replaces(tmp_path) -> None:
    sample(30).to_parquet(tmp_path)
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
