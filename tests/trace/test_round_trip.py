"""Every field of a trace comes back from disk as it went, from a zip and from a folder."""

import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

import v4kit
from tests.trace.samples import LEVELS, assert_same, sample, torn_text, traces
from v4kit.errors import TraceError, TraceFormatError, TraceWriteError
from v4kit.trace import Trace, layout, make_trace
from v4kit.trace.store import TraceWriter

CHUNK = 8


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(layout, "ROWS", CHUNK)
    monkeypatch.setattr(layout, "_TEXT_BYTES", 16)


def write(trace: Trace, folder: Path, *sizes: int) -> Path:
    """Append a trace to a folder in pieces, flushed after each."""
    with TraceWriter(folder) as writer:
        start = 0
        for size in sizes or (len(trace),):
            writer.append(trace[start : start + size])
            writer.flush()
            start += size
        writer.append(trace[start:])
    return folder


@settings(max_examples=25, deadline=None)
@given(trace=traces())
def test_zip_and_folder(trace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        assert_same(v4kit.open_trace(trace.save(Path(scratch, "a.v4trace"))), trace)
        assert_same(v4kit.open_trace(write(trace, Path(scratch, "b"))), trace)


@pytest.mark.parametrize("routing", LEVELS)
@pytest.mark.parametrize("rows", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 1])
def test_rows_around_chunks(tmp_path, small_chunks, rows, routing) -> None:
    trace = sample(rows, routing=routing)
    assert_same(v4kit.open_trace(trace.save(tmp_path / "a.v4trace")), trace)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (7, 1, 9), (8, 8), (3, 5, 8, 2), (20,)])
def test_pieces_of_any_size(tmp_path, small_chunks, sizes) -> None:
    trace = sample(40)
    assert_same(v4kit.open_trace(write(trace, tmp_path / "folder", *sizes)), trace)


def test_large_rows_make_small_chunks() -> None:
    meta = sample(1).meta["architecture"] | {"n_experts": 256, "top_k": 6}
    meta["layers"] = meta["layers"][:1] * 43
    chunks = {a.path: a for a in layout.routing_arrays(LEVELS["full"], meta)}
    assert chunks["routing/experts"].chunk == (4_096, 43, 6)
    assert chunks["routing/router_scores"].chunk == (256, 43, 256)
    assert chunks["routing/bias"].chunk == (43, 256)


@settings(max_examples=25, deadline=None)
@given(trace=traces(max_rows=4, texts=torn_text))
def test_torn_text_becomes_text(trace) -> None:
    """A lone surrogate is no text: it becomes U+FFFD when the trace is made, not on disk."""
    assert trace.text.encode().decode() == trace.text
    with tempfile.TemporaryDirectory() as scratch:
        assert_same(v4kit.open_trace(trace.save(Path(scratch, "a.v4trace"))), trace)


def test_split_surrogates_join_within_a_token() -> None:
    trace = v4kit.import_routing(
        [[[0]]] * 3, n_experts=1, text=["\ud83d\ude00", "\ud83d", "a\udc00b"]
    )
    assert trace.tokens["text"].tolist() == ["😀", "\ufffd", "a\ufffdb"]


def test_meta_of_numpy_and_paths(tmp_path) -> None:
    trace = sample(2, steps=np.int64(3), losses=np.array([0.5]), source=Path("corpus"))
    meta = v4kit.open_trace(trace.save(tmp_path / "a")).meta
    assert (meta["steps"], meta["losses"], meta["source"]) == (3, [0.5], "corpus")


@pytest.mark.parametrize("value", [object(), float("nan"), {1: {}.keys()}])
def test_meta_that_is_no_json(tmp_path, value) -> None:
    (tmp_path / "a").write_text("before")
    with pytest.raises(TraceWriteError, match="meta"):
        sample(2, odd=value).save(tmp_path / "a")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "before")]


def test_equal_traces_make_equal_files(tmp_path) -> None:
    first, second = (sample().save(tmp_path / name).read_bytes() for name in "ab")
    assert first == second


def test_the_overview_stands_first_and_counts(tmp_path) -> None:
    trace = sample(50)[10:]
    with zipfile.ZipFile(trace.save(tmp_path / "a.v4trace")) as archive:
        assert archive.namelist()[0] == "overview.json"
        overview = json.loads(archive.read("overview.json"))
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
    counts = np.zeros((3, 8), int)
    for row in trace.routing["experts"].to_numpy()[:-1]:
        for layer, used in enumerate(row):
            np.add.at(counts[layer], used, 1)
    assert overview["counts"] == counts.tolist()
    assert overview["tokens"] == 40
    assert overview["documents"] == trace.tokens["document"].nunique()
    assert overview["text"] == trace.text
    assert overview["meta"] == trace.meta


def test_saving_what_was_opened(tmp_path) -> None:
    opened = v4kit.open_trace(sample(30).save(tmp_path / "a"))
    assert_same(v4kit.open_trace(opened[5:].save(tmp_path / "b")), sample(30)[5:])


def test_a_users_columns_are_not_dropped_in_silence(tmp_path) -> None:
    trace = sample()
    trace.tokens["mine"] = 1.0
    with pytest.warns(UserWarning, match="mine"):
        trace.save(tmp_path / "a")


def test_missing_strings_are_empty(tmp_path) -> None:
    trace = sample(3)
    trace.tokens["label"] = pd.Series(["a", None, "b"], dtype="str")
    opened = v4kit.open_trace(trace.save(tmp_path / "a"))
    assert opened.tokens["label"].tolist() == ["a", "", "b"]


@pytest.mark.parametrize("values", [[0.5, 1, 2], [0, 1, 2**40], [0, 1, np.nan]])
def test_columns_that_would_change_are_refused(tmp_path, values) -> None:
    trace = sample(3)
    trace.tokens["document"] = values
    with pytest.raises(TraceFormatError, match="document"):
        trace.save(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_ids_out_of_range_are_not_written(tmp_path) -> None:
    trace = sample(3)
    trace.routing["experts"].to_numpy()[0, 0, 0] = 8
    with pytest.raises(TraceFormatError, match="experts reach from -1 to 8"):
        trace.save(tmp_path / "a")


def test_traces_that_do_not_fit_are_not_appended(tmp_path) -> None:
    with TraceWriter(tmp_path / "folder") as writer:
        writer.append(sample(5))
        for other in (sample(5, n_experts=9), sample(5, routing="ids")):
            with pytest.raises(TraceError, match="can't be appended"):
                writer.append(other)
        assert writer.rows == 5
    assert_same(v4kit.open_trace(tmp_path / "folder"), sample(5))


def test_arrays_of_other_sizes_are_no_trace() -> None:
    trace = sample(4)
    arrays = {name: array.to_numpy() for name, array in trace.routing.data_vars.items()}
    for name in arrays:
        cut = {**arrays, name: arrays[name][..., :1]}
        with pytest.raises(TraceFormatError, match="shape"):
            make_trace({}, cut, trace.meta)
    with pytest.raises(TraceFormatError, match="lacks"):
        Trace(trace.tokens.drop(columns="id"), trace.routing, trace.meta)
    with pytest.raises(TraceFormatError, match="shape"):
        Trace(trace.tokens[:3], trace.routing, trace.meta)
