"""The doctor's report: on a published layout with layers on disk, and when a step fails."""

import html
import re

import pytest

import v4kit
from tests import checkpoints
from v4kit.cli import main
from v4kit.doctor import PROMPT, doctor
from v4kit.errors import ModelError


@pytest.mark.parametrize("layout", ["native", "fp8"])
def test_report(layout, tmp_path, capsys) -> None:
    checkpoints.write(tmp_path / "model", layout)
    options = ["--max-memory", "cpu=6MB", "--offload-folder", str(tmp_path / "disk")]
    out = tmp_path / "out"
    assert main(["doctor", str(tmp_path / "model"), *options, "--out", str(out)]) == 0
    report = (out / "doctor.txt").read_text("utf-8")
    titles = [line for line in report.splitlines() if line in ("Plan", "Loaded", "Validated")]
    assert titles == ["Plan", "Loaded", "Validated"]
    assert "All facts hold in all layers." in report
    assert "GB elsewhere, fetched when used" in report
    assert "221,421 parameters in float32" in report
    trace = v4kit.open_trace(out / "doctor.v4trace")
    assert (trace.tokens["phase"] == "generated").sum() <= 32
    assert report.rstrip().endswith("doctor.v4trace")
    assert "No module holds quantized weights; the files are " in report
    assert f"Report: {out / 'doctor.html'}" in capsys.readouterr().out


def test_page(tmp_path) -> None:
    """One file with tables and pictures, which asks nothing."""
    page = doctor("tiny", tmp_path, max_new_tokens=4)
    text = page.read_text("utf-8")
    titles = re.findall(r"<h2 .*?>(.*?)</h2>", text)
    assert titles == ["Plan", "Loaded", "Validated", "Generated"]
    heads = [re.findall(r'scope="col">(.*?)<', head) for head in re.findall("<thead>.*", text)]
    assert [head[0] for head in heads] == ["part", "device", "precision", "place", "layer"]
    assert [head[-1] for head in heads] == ["GB", "free", "parameters", "GB", "ok"]
    names = re.findall(r'role="group" aria-label="(.*?)"', text)
    assert names == ["Where tiny goes", "Text by the heaviest expert of layer 5"]
    said = v4kit.open_trace(tmp_path / "doctor.v4trace").completion
    assert html.escape(f"{PROMPT}{said}", quote=True).replace("&#x27;", "&#39;") in text
    assert "Memory at most: " in text
    own = text.replace(text[text.index("<script>") : text.rindex("</body>")], "")
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", own)
    assert "default-src 'none'" in html.unescape(text)


def test_tiny(tmp_path, capsys) -> None:
    assert main(["doctor", "tiny", "--out", str(tmp_path)]) == 0
    assert "Fits on the CPU" in capsys.readouterr().out


def test_what_was_found_before_an_error_stays(tmp_path) -> None:
    checkpoints.write(tmp_path / "model", shards=2)
    (tmp_path / "model" / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="1 of 2 files"):
        doctor(str(tmp_path / "model"), tmp_path / "out")
    report = (tmp_path / "out" / "doctor.txt").read_text("utf-8")
    assert report.startswith("Plan\n====\n")
    assert "Failed\n======\nThe step after 'Plan' could not be done.\nModelError: 1 of" in report
    page = (tmp_path / "out" / "doctor.html").read_text("utf-8")
    assert re.findall(r"<h2 .*?>(.*?)</h2>", page) == ["Plan", "Failed"]
    assert "1 of 2 files of weights are missing" in page


def test_an_error_of_any_kind_is_told(tmp_path, monkeypatch) -> None:
    def fall(*_, **__):
        raise RuntimeError("<out of memory>")

    monkeypatch.setattr("v4kit.engines.Model.generate", fall)
    with pytest.raises(RuntimeError, match="out of memory"):
        doctor("tiny", tmp_path)
    page = (tmp_path / "doctor.html").read_text("utf-8")
    titles = re.findall(r"<h2 .*?>(.*?)</h2>", page)
    assert titles == ["Plan", "Loaded", "Validated", "Failed"]
    assert "RuntimeError: &lt;out of memory&gt;" in page


def test_no_step_before(tmp_path, capsys) -> None:
    assert main(["doctor", "no/such", "--out", str(tmp_path)]) == 1
    assert "The first step could not be done." in (tmp_path / "doctor.txt").read_text("utf-8")
    assert "no/such" in capsys.readouterr().err
