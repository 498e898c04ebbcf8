"""The report as a file: its data are the trace, nothing can break out, nothing is half written."""

import base64
import html
import json
import re
import stat
import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.figures.traces import NASTY, flash, imported, loops, routed
from v4kit.errors import TraceWriteError
from v4kit.figures.report import SCRIPTS, asset, render, write


def data_of(page):
    (text,) = re.findall(r'json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def unpack(text, dtype):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)


@pytest.mark.parametrize("trace", [routed(), routed(dense=1), flash(200), imported()])
def test_data_are_the_trace(trace):
    data = data_of(render(trace))
    experts = trace.routing["experts"].values
    np.testing.assert_array_equal(unpack(data["experts"], "<i2").reshape(experts.shape), experts)
    if "weights" in trace.routing:
        steps = unpack(data["weights"], "<u2").reshape(experts.shape)
        weights = data["weightLow"] + data["weightStep"] * steps
        used = experts >= 0
        np.testing.assert_allclose(weights[used], trace.routing["weights"].values[used], atol=2e-5)
    else:
        assert data["weights"] is None
    count, _, tokens = loops(trace)
    counts = unpack(data["counts"], "<i4").reshape(experts.shape[1], -1)
    for (layer, expert), times in count.items():
        assert counts[layer, expert] == times
    assert counts.sum() == sum(count.values())
    assert data["routed"] == [tokens[layer] for layer in range(experts.shape[1])]
    np.testing.assert_array_equal(
        unpack(data["tokens"]["position"], "<i4"), trace.tokens["position"]
    )


def test_nothing_breaks_out_of_the_data():
    trace = routed(40, texts=NASTY, meta={"model": "</title><script>alert(1)</script>"})
    page = render(trace, title="</h1><script>alert(2)</script>")
    assert page.count("<script") == 3 + render(routed()).count("<script") - 3
    assert "alert(1)</script>" not in page
    assert "<img src=x" not in page
    assert "</script><img src=x onerror=alert(1)>" in data_of(page)["tokens"]["text"]


def test_page_is_complete_and_asks_nothing():
    page = render(routed())
    assert page.count('<script type="application/json"') == 1
    own = page.replace(page[page.index("<script>") : page.rindex("</body>")], "")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|\#)""", own)
    assert "default-src 'none'" in html.unescape(page)
    assert "unsafe-eval" not in page
    for name in SCRIPTS:
        assert "innerHTML" not in asset(name)
        assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|eval)\b\s*\(", asset(name))


def test_long_traces_are_embedded_in_part_and_say_so():
    trace = routed(6_000, layers=3, experts=8, top_k=2)
    data = data_of(render(trace))
    assert (data["shown"], data["total"]) == (5_000, 6_000)
    assert len(data["tokens"]["text"]) == 5_000
    assert data["notes"][0].startswith(
        "Text and details of single tokens: the first 5,000 of 6,000"
    )
    assert max(data["routed"]) == 5_999


def test_notes_are_honest():
    notes = " ".join(data_of(render(routed()))["notes"])
    assert "routers computed in float32" in notes
    assert "Hash-routed layers (0)" in notes
    assert "1 token was never fed to the model" in notes
    assert "Chance: an expert drawn at random is used by 9.38%" in notes
    bare = " ".join(data_of(render(imported()))["notes"])
    assert "unranked" in bare
    assert "No weights were recorded" in bare


@pytest.mark.parametrize("trace", [routed(5)[:0], routed(1), imported()[:0]])
def test_traces_without_routing_make_a_page(trace):
    assert data_of(render(trace))["first"] is None


def test_writes_one_file_readable_by_others(tmp_path):
    path = write(routed(), tmp_path / "deep" / "report.html", title="A run")
    assert path == tmp_path / "deep" / "report.html"
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    page = path.read_text(encoding="utf-8")
    assert "<title>A run – routing report</title>" in page
    other = tmp_path / "plain"
    other.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


def test_trace_writes_itself(tmp_path):
    assert routed().to_html(tmp_path / "a.html").stat().st_size > 1_000_000


def test_failure_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("before")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(TraceWriteError, match="No space left"):
        write(routed(), path)
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_place_that_can_not_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TraceWriteError, match="could not be written"):
        write(routed(), tmp_path / "file" / "report.html")
