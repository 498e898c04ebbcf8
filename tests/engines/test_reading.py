"""Reading one document and many, into memory and into a folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import v4kit
from tests import zoo

TEXTS = ["A first document.", "def f(x): return x", "春眠不觉晓", "One, two, three: four!"]
LABELS = ["prose", "code", "verse", "prose"]


def same(one: v4kit.Trace, other: v4kit.Trace) -> None:
    """Assert that two traces hold the same to the bit."""
    assert one.tokens.equals(other.tokens)
    assert one.routing.equals(other.routing)


class TestOne:
    @pytest.mark.parametrize("name", zoo.ALL)
    def test_equals_the_rows_of_generate(self, name) -> None:
        """What was written, read again with the same passes, is the same; and a row longer."""
        model = zoo.model(name)
        options = {"max_new_tokens": 10, "temperature": 1.0, "seed": 3}
        trace = model.generate("Once upon", **options, prefill_chunk=1)
        again = model.read(trace.tokens["id"].tolist(), prefill_chunk=1)
        fed = len(trace) - 1
        assert again.tokens["valid"].all()
        for column in ("id", "text", "position", "logprob", "entropy", "special", "role"):
            assert again.tokens[column].equals(trace.tokens[column]), column
        assert again.routing[{"token": slice(fed)}].equals(trace.routing[{"token": slice(fed)}])
        assert again.tokens["predicted"][:fed].equals(trace.tokens["predicted"][:fed])
        whole = model.read(trace.tokens["id"].tolist())
        np.testing.assert_allclose(whole.tokens["logprob"], trace.tokens["logprob"], atol=1e-3)

    def test_chat(self) -> None:
        trace = zoo.model("small").read([{"role": "user", "content": "Hi"}])
        assert trace.text.endswith("<｜User｜>Hi<｜Assistant｜></think>")


class TestMany:
    @pytest.mark.parametrize("name", ["small", "mixtral"])
    @pytest.mark.parametrize("where", ["memory", "folder"])
    def test_documents(self, name, where, tmp_path) -> None:
        model = zoo.model(name)
        folder = tmp_path / "run" if where == "folder" else None
        trace = model.read_many(TEXTS, labels=LABELS, save_to=folder, progress=False)
        assert trace.tokens["document"].drop_duplicates().tolist() == [0, 1, 2, 3]
        for number, text in enumerate(TEXTS):
            rows = trace.tokens["document"] == number
            part, alone = trace[rows.to_numpy()], model.read(text)
            same(
                part,
                v4kit.Trace(
                    alone.tokens.assign(document=np.int32(number), label=LABELS[number]),
                    alone.routing,
                    alone.meta,
                ),
            )

    @pytest.mark.parametrize("routing", ["ids", "scores", "full"])
    def test_folder_equals_memory(self, routing, tmp_path) -> None:
        model, record = zoo.model("small"), v4kit.Record(routing=routing)
        options = {"labels": LABELS, "record": record, "progress": False, "prefill_chunk": 5}
        memory = model.read_many(TEXTS, **options)
        folder = model.read_many(TEXTS, **options, save_to=str(tmp_path / "run"))
        same(folder, memory)
        assert folder.meta == memory.meta
        same(v4kit.open_trace(tmp_path / "run"), memory)

    def test_generator_and_no_labels(self) -> None:
        trace = zoo.model("small").read_many((text for text in TEXTS), progress=False)
        assert (trace.tokens["label"] == "").all()
        assert trace.tokens["document"].max() == 3

    def test_ids_and_conversations(self) -> None:
        documents = [[0, 40, 41], [{"role": "user", "content": "Hi"}], "text"]
        trace = zoo.model("small").read_many(documents, progress=False)
        assert trace.tokens["id"].tolist()[:3] == [0, 40, 41]
        assert set(trace.tokens["role"][trace.tokens["document"] == 1]) >= {"user", "answer"}

    @pytest.mark.parametrize("progress", [True, False])
    def test_progress(self, progress, capsys) -> None:
        zoo.model("small").read_many(TEXTS, progress=progress)
        said = capsys.readouterr()
        assert said.out == ""
        assert ("MB" in said.err) is progress
        assert bool(said.err) is progress

    @pytest.mark.parametrize("where", ["memory", "folder"])
    def test_interrupted(self, where, tmp_path) -> None:
        """What was read whole is returned, with a warning."""
        model = zoo.model("small")
        folder = tmp_path / "run" if where == "folder" else None
        expected = model.read_many(TEXTS[:2], labels=LABELS[:2], progress=False)
        seen = []

        def interrupt(event: object) -> None:
            seen.append(event)
            if len(seen) == 3:
                raise KeyboardInterrupt

        with (
            model.tap("router", interrupt, layers=[4]),
            pytest.warns(UserWarning, match="holds the 2 documents that were read whole"),
        ):
            trace = model.read_many(TEXTS, labels=LABELS, save_to=folder, progress=False)
        same(trace, expected)

    def test_interrupted_before_anything_was_read(self) -> None:
        model = zoo.model("small")

        def interrupt(_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), model.tap("router", interrupt):
            model.read_many(TEXTS, progress=False)

    def test_error_in_the_middle_keeps_the_folder(self, tmp_path) -> None:
        model, seen = zoo.model("small"), []

        def fail(event: object) -> None:
            seen.append(event)
            if len(seen) == 4:
                raise LookupError

        with pytest.raises(LookupError), model.tap("router", fail, layers=[4]):
            model.read_many(TEXTS, save_to=tmp_path / "run", progress=False)
        same(v4kit.open_trace(tmp_path / "run"), model.read_many(TEXTS[:3], progress=False))


KILLED = """
import os, signal, sys
from tests import zoo

model, whole, killed = zoo.model("small"), *sys.argv[1:]
documents = [[0, *range(7 + n, 317), *range(20, 90 + n)] for n in range(16)]
labels = [f"label {n}" for n in range(16)]
model.read_many(documents, labels=labels, save_to=whole, progress=False)
seen = []

def kill(event):
    seen.append(event)
    if len(seen) == 2 * 15:
        os.kill(os.getpid(), signal.SIGKILL)

with model.tap("router", kill, layers=[4]):
    model.read_many(documents, labels=labels, save_to=killed, progress=False)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_killed_process_leaves_what_was_flushed(tmp_path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", KILLED, str(whole), str(killed)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    expected, trace = v4kit.open_trace(whole), v4kit.open_trace(killed)
    documents = trace.tokens["document"].nunique()
    # A flush comes after the first document and after every 4,096 tokens.
    assert 12 <= documents < 15
    assert expected.tokens["document"].nunique() == 16
    assert len(trace) == int((expected.tokens["document"] < documents).sum())
    same(trace, expected[: len(trace)])
    assert trace.meta == expected.meta
    assert (trace.routing["experts"] >= 0).all()
