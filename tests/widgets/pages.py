"""A page without a browser: hears what a view sends, asks questions, and rebuilds what it is told.

Tests go through the comm's handler, as a kernel does, so nothing that a page sends is taken on
trust.
"""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from v4kit.figures.labels import visible


def awaited(work):
    """Run a coroutine to its end, in a thread of its own: a browser leaves a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def eventually(condition, seconds=30):
    """Assert that something comes true while other threads work."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "It did not happen in time."
        time.sleep(0.005)


def threads(name):
    """How many of our threads are alive."""
    return sum(thread.name == name for thread in threading.enumerate())


class Held:
    """A model that another thread uses while the block runs."""

    def __init__(self, model):
        self._model = model
        self._inside, self._go_on = threading.Event(), threading.Event()

    def _hold(self):
        with self._model.busy():
            self._inside.set()
            assert self._go_on.wait(60)

    def __enter__(self):
        self._thread = threading.Thread(target=self._hold)
        self._thread.start()
        assert self._inside.wait(30)

    def __exit__(self, *_):
        self._go_on.set()
        self._thread.join(30)


class Page:
    """What one page knows of a view: messages, and the rows that they told."""

    def __init__(self, view):
        self.view = view
        self.messages, self.rows, self.totals = [], {}, None
        view.send = self._hear

    def _hear(self, content, buffers=None):
        self.messages.append((content, buffers))
        if content.get("event") in {"snapshot", "rows"}:
            self.rows |= rows_of(self.view, content, buffers)
        if content.get("event") == "snapshot":
            self.totals = sums_of(self.view, buffers)

    @property
    def events(self):
        return [content["event"] for content, _ in self.messages if "event" in content]

    def say(self, content):
        """Send what a page sends: it must never come out of the handler."""
        data = {"method": "custom", "content": content}
        self.view._handle_msg({"content": {"data": data}, "buffers": []})

    def ask(self, question, about=None, ident="7"):
        """Ask a question; return the answer's content and buffers, None if there is none."""
        self.messages.clear()
        self.say({"question": question, "id": ident, "about": about or {}})
        answers = [message for message in self.messages if message[0].get("answer") == ident]
        assert len(answers) <= 1
        return answers[0] if answers else None

    def check(self, trace):
        """Assert that the page shows this trace, row by row, and counted the same."""
        assert self.rows.keys() == set(range(len(trace)))
        texts, phases = trace.tokens["text"].tolist(), trace.tokens["phase"].tolist()
        experts = trace.routing["experts"].values
        weights = trace.routing["weights"].values
        for row, told in self.rows.items():
            assert told["text"] == visible(texts[row], limit=200)
            assert told["breaks"] == ("\n" in texts[row])
            assert told["generated"] == (phases[row] == "generated")
            np.testing.assert_array_equal(told["experts"], experts[row])
            np.testing.assert_array_equal(told["weights"], weights[row])
        assert self.totals == totals_of(trace)


def rows_of(view, content, buffers):
    """The rows of a message, by their numbers."""
    shape = (len(content["texts"]), len(view._about["kinds"]), view._about["topK"])
    experts = np.frombuffer(buffers[0], "<i2").reshape(shape)
    weights = np.frombuffer(buffers[1], "<f4").reshape(shape)
    made = np.frombuffer(buffers[2], "u1")
    assert made.shape == shape[:1]
    return {
        content["start"] + i: {
            "text": text,
            "breaks": i in content["breaks"],
            "generated": bool(made[i]),
            "experts": experts[i],
            "weights": weights[i],
        }
        for i, text in enumerate(content["texts"])
    }


def sums_of(view, buffers):
    """The sums of a snapshot as lists: uses, leads, routed tokens."""
    shape = (len(view._about["kinds"]), view._about["nExperts"])
    counts, leads = (np.frombuffer(b, "<i4").reshape(shape).tolist() for b in buffers[3:5])
    return counts, leads, np.frombuffer(buffers[5], "<i4").tolist()


def totals_of(trace):
    """Uses and leads of each expert and routed tokens of each layer: by counting."""
    architecture = trace.meta["architecture"]
    ids = trace.routing["experts"].values.tolist()
    heavy = trace.routing["weights"].values.tolist() if "weights" in trace.routing else None
    layers = range(len(architecture["layers"]))
    counts = [[0] * architecture["n_experts"] for _ in layers]
    leads, routed = [[0] * architecture["n_experts"] for _ in layers], [0 for _ in layers]
    for row, by_layer in enumerate(ids):
        for layer, slots in enumerate(by_layer):
            used = [slot for slot, expert in enumerate(slots) if expert >= 0]
            for slot in used:
                counts[layer][slots[slot]] += 1
            if used:
                routed[layer] += 1
                if heavy:
                    leads[layer][slots[max(used, key=heavy[row][layer].__getitem__)]] += 1
    return counts, leads, routed
