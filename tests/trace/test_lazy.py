"""Opening reads no more than it must, and what is opened goes on working."""

import gc
import os
import pickle
import tracemalloc

import numpy as np
import pytest
import xarray as xr

import v4kit
from tests.house.sources import run_python
from tests.trace.samples import ATTENDED, assert_same, sample
from v4kit.errors import TraceFormatError
from v4kit.trace import layout
from v4kit.trace.store import TraceWriter


def keep(trace, path, form):
    """Save as a zip, or write a folder."""
    if form == "zip":
        return trace.save(path)
    with TraceWriter(path) as writer:
        writer.append(trace)
    return path


@pytest.fixture(params=["zip", "folder"])
def form(request):
    return request.param


def test_routing_stays_on_disk(tmp_path, form) -> None:
    routing = v4kit.open_trace(keep(sample(), tmp_path / "a", form)).routing
    assert all(variable.chunks for variable in routing.data_vars.values())


def test_opening_and_one_row_take_little_memory(tmp_path, form) -> None:
    trace = sample(24_576, routing="scores", layers=43, n_experts=256, top_k=6)
    whole = trace.routing.nbytes
    path = keep(trace, tmp_path / "a", form)
    row = trace.routing["scores"].to_numpy()[12_345].copy()
    del trace
    v4kit.open_trace(path)  # what is imported and cached once is not counted
    gc.collect()
    tracemalloc.start()
    opened = v4kit.open_trace(path)
    np.testing.assert_array_equal(opened[12_345].routing["scores"][0], row)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < whole / 5


def test_a_layer_of_a_slice(tmp_path, form, monkeypatch) -> None:
    monkeypatch.setattr(layout, "ROWS", 8)
    trace = sample(50)
    opened = v4kit.open_trace(keep(trace, tmp_path / "a", form))
    for rows in (slice(5, 30), slice(7, 9), slice(None, None, 7), slice(40, 2, -3)):
        found = opened[rows].routing["weights"].sel(layer=1)
        np.testing.assert_array_equal(found, trace[rows].routing["weights"].sel(layer=1))


@pytest.mark.parametrize(
    "key",
    [
        (13,),
        (-1,),
        (slice(None), 1),
        (slice(None), slice(None), 0),
        (3, 2, 1),
        ([1, 30, 2, 49],),
        ([40, 3], [0, 2]),
        (slice(None), [2, 0]),
        (np.arange(50) % 9 == 0,),
        (slice(5, 40, 3), -1),
        (slice(0, 0),),
    ],
    ids=str,
)
def test_any_part_of_a_variable(tmp_path, form, monkeypatch, key) -> None:
    monkeypatch.setattr(layout, "ROWS", 8)
    trace = sample(50)
    opened = v4kit.open_trace(keep(trace, tmp_path / "a", form))
    for name in ("experts", "router_scores"):
        part = opened.routing[name][key]
        np.testing.assert_array_equal(part, trace.routing[name][key])


def test_neither_torch_nor_transformers_is_loaded(tmp_path) -> None:
    path = sample(30, attention="full", pooling=True).save(tmp_path / "a.v4trace")
    code = f"""
        import sys, v4kit
        trace = v4kit.open_trace({str(path)!r})
        trace = v4kit.concat([trace, trace[3:]])
        trace.routing.load()
        trace.attention.load()
        trace.attention_to_tokens(5, convention="pooled")
        trace.save({str(tmp_path / "b")!r})
        print(len(trace), sorted({{"torch", "transformers", "plotly"}} & set(sys.modules)))
    """
    assert run_python("\n".join(map(str.strip, code.splitlines())), cwd=tmp_path) == "57 []\n"


def test_a_relative_path_outlives_a_change_of_folder(tmp_path, monkeypatch, form) -> None:
    keep(sample(), tmp_path / "a", form)
    monkeypatch.chdir(tmp_path)
    opened = v4kit.open_trace("a")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert_same(opened, sample())


@pytest.mark.parametrize("attended", ["none", "strongest", "full"])
def test_pickled_for_another_process(tmp_path, form, attended) -> None:
    trace = sample(**ATTENDED[attended])
    opened = v4kit.open_trace(keep(trace, tmp_path / "a", form))
    again = pickle.loads(pickle.dumps(opened))
    assert_same(again, trace)
    if attended != "none":
        lazy = pickle.loads(pickle.dumps(again.attention))
        xr.testing.assert_identical(lazy.compute(), trace.attention.compute())


def test_two_at_once(tmp_path, form) -> None:
    path = keep(sample(), tmp_path / "a", form)
    first, second = v4kit.open_trace(path), v4kit.open_trace(path)
    assert_same(first, second)
    del first
    gc.collect()
    assert_same(second, sample())


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps an open file from being replaced")
@pytest.mark.parametrize("load_first", [True, False])
def test_saving_over_a_trace_that_is_open(tmp_path, load_first) -> None:
    path = sample(30).save(tmp_path / "a")
    opened = v4kit.open_trace(path)
    if load_first:
        opened.routing["weights"].to_numpy()
    opened[10:].save(path)
    assert_same(opened, sample(30))
    assert_same(v4kit.open_trace(path), sample(30)[10:])
    path.unlink()
    assert_same(opened, sample(30))


def test_a_growing_folder_is_read_as_it_was_when_it_was_opened(tmp_path) -> None:
    trace = sample(30, attention="full")
    with TraceWriter(tmp_path / "a") as writer:
        writer.append(trace[:11])
        writer.flush()
        opened = v4kit.open_trace(tmp_path / "a")
        writer.append(trace[11:])
        writer.flush()
        assert_same(opened, trace[:11])
        assert_same(v4kit.open_trace(tmp_path / "a"), trace)


def test_a_folder_deleted_meanwhile_is_an_error_not_a_value(tmp_path) -> None:
    trace = sample(attention="full")
    opened = v4kit.open_trace(keep(trace, tmp_path / "a", "folder"))
    for file in (tmp_path / "a").rglob("0"):
        if file.is_file():
            file.unlink()
    with pytest.raises(TraceFormatError, match=r"weights.*damaged, moved or deleted"):
        opened.routing[["weights"]].load()
    with pytest.raises(TraceFormatError, match=r"masses_1.*damaged, moved or deleted"):
        opened.attention["mass"][:, 1].load()
    with pytest.raises(TraceFormatError, match=r"masses_1.*damaged, moved or deleted"):
        opened.attention_to_tokens(3, layers=1)
    with pytest.raises(TraceFormatError, match=r"sink.*damaged, moved or deleted"):
        opened.attention["sink"].load()


def test_single_rows_are_read_like_any_other(tmp_path, form) -> None:
    trace = sample(50)
    lazy = v4kit.open_trace(keep(trace, tmp_path / "a", form)).routing
    for row in (0, 17, -1):
        np.testing.assert_array_equal(
            lazy["experts"][row].to_numpy(), trace.routing["experts"].to_numpy()[row]
        )
    np.testing.assert_array_equal(
        lazy["margin"][7, 1].to_numpy(), trace.routing["margin"].to_numpy()[7, 1]
    )
