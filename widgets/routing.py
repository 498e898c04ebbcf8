"""`RoutingView`: which experts each token uses, in a trace or while a model writes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from traitlets import Bool, Dict, Int, TraitError, Unicode, validate

from v4kit.errors import InputError
from v4kit.figures.bundle import mimebundle
from v4kit.figures.reading import any_layer, expert_of, facts, last_learned, row_of
from v4kit.widgets.experts import expert_facts
from v4kit.widgets.rows import about, details, page, sums
from v4kit.widgets.sender import SENDER
from v4kit.widgets.tape import Tape
from v4kit.widgets.view import Reply, View

if TYPE_CHECKING:
    from collections.abc import Callable

    from v4kit.engines import Step
    from v4kit.engines.stream import Stream
    from v4kit.trace import Trace

WINDOW = 256
"""Rows of text that a page gets at once."""
SNAPSHOTS = (0.0, 0.5, 1.5, 4.0)
"""Seconds of a run after which everything is sent anew: a page that is only just being built hears
nothing, and while a cell runs it can't ask."""

STILL = ("text/html", "image/png")
"""What a picture of the trace is stored as, where a page can't show widgets."""


class Refused(InputError, TraitError):
    """A choice that is not there. As traitlets' own error it undoes what a page has set."""


class RoutingView(View):
    """Text, layer × expert grid, token and expert of a trace or of a stream that is running.

    Scrub or play through the tokens; click an expert for its tokens and partners, a token for its
    path through all layers. `token`, `layer` and `expert` can be read, set, observed and linked.
    `model.generate(…, on_step=view)` shows that run.

    Args:
        source: A Trace, or a stream made by `model.stream`.
        traits: `token`, `layer`, `expert`, `theme`.

    Raises:
        InputError: The source is neither, or has no such token, layer or expert.
    """

    token = Int(None, allow_none=True, help="Row that is chosen; None follows the newest.").tag(
        sync=True
    )
    layer = Int(None, allow_none=True, help="Layer that colours the text.").tag(sync=True)
    expert = Int(None, allow_none=True, help="Expert that colours the text; None: the heaviest.")
    expert = expert.tag(sync=True)
    running = Bool(help="Whether a run is going on.").tag(sync=True)
    _drawing = Unicode("routing").tag(sync=True)
    _about = Dict().tag(sync=True)
    # Known before a source was accepted, because what is refused is closed too.
    _stream: Stream | None = None
    _unwatch: Callable[[], None] | None = None

    def __init__(self, source: Trace | Stream, **traits: Any) -> None:
        trace = _trace_of(source)
        self._tape = Tape(trace)
        self._sent, self._began, self._told, self._shows = 0, 0.0, False, 0
        self._snapshots = list(SNAPSHOTS)
        chosen = {"layer": last_learned(trace), **traits}
        super().__init__(_about=about(facts(trace)), **chosen)
        if source is not trace:
            self.attach(source)  # type: ignore[arg-type]

    @property
    def trace(self) -> Trace:
        """What is shown, as a Trace; while a run goes on, what there is of it."""
        return self._tape.trace if self._stream is None else self._stream.trace

    @trace.setter
    def trace(self, trace: Trace) -> None:
        self._release()
        self._replace(trace)

    def to_html(self, path: str | Path) -> Path:
        """Write the report of the trace, one self-contained HTML file; return its path.

        Raises:
            TraceWriteError: The disk is full or the place can't be written.
        """
        return self.trace.to_html(path)

    def attach(self, stream: Stream) -> None:
        """Show a stream from now on, whoever advances it."""
        self._release()
        self._replace(stream.trace)
        self._stream = stream
        if stream.stop_reason is None:
            self._began, self._snapshots, self._told = time.monotonic(), list(SNAPSHOTS), False
            self.running = True
            self._unwatch = stream.watch(self._on_step, self._on_end)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.trace!r})"

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return the view, and beside it a picture for pages that have no widgets."""
        shown = super()._repr_mimebundle_(**options)
        if shown is None or not len(self._tape.trace):
            return shown
        data, metadata = shown
        still = mimebundle(self._tape.trace)
        return {name: still[name] for name in STILL} | data, metadata

    def close(self) -> None:
        """End the view: pages drop it, and it hears of no run any more."""
        self._release()
        super().close()

    def _replace(self, trace: Trace) -> None:
        """Show another trace, with as much of the choice as it has."""
        self._tape, self._shows = Tape(trace), self._shows + 1
        known = about(facts(trace))
        if known != self._about:
            self.layer, self.expert = last_learned(trace), None
        if self.token is not None and self.token >= len(trace):
            self.token = None
        self._about = known
        self._send_snapshot(self._tape)

    def _release(self) -> None:
        if self._unwatch is not None:
            self._unwatch()
        SENDER.drop(self._flush)
        self._stream = self._unwatch = None
        self.running = False

    # Called by the thread that generates: as little as can be.

    def _on_step(self, step: Step) -> None:
        if self._told or self._stream is None:
            self._tape.add(step)
        else:
            # The trace has the prompt's rows, which no step tells.
            self._tape, self._told = Tape(self._stream.trace), True
        SENDER.mark(self._flush)

    def _on_end(self, stream: Stream) -> None:
        self._settle(stream.trace)

    def _settle(self, trace: Trace) -> None:
        """Take the trace of a run that has ended, or was left, for what there is."""
        if self._unwatch is not None:
            self._unwatch()
            self._tape, self._stream, self._unwatch = Tape(trace), None, None
            SENDER.mark(self._flush)

    # Called by the sender's thread.

    def _flush(self) -> None:
        tape, elapsed = self._tape.now(), time.monotonic() - self._began
        ended = self._unwatch is None
        if ended or (self._snapshots and elapsed >= self._snapshots[0]):
            self._snapshots = [after for after in self._snapshots if after > elapsed]
            self._send_snapshot(tape)
        else:
            content, buffers = page(tape, max(self._sent - 1, 0), len(tape))
            self.send({"event": "rows", **content}, buffers)
        self._sent = len(tape)
        # Meanwhile another run may have begun.
        if ended and self._stream is None:
            self.running = False

    def _send_snapshot(self, tape: Tape) -> None:
        content, buffers = self._everything(tape)
        self.send({"event": "snapshot", **content}, list(buffers))

    # Answers to the page.

    def _snapshot(self) -> Reply:
        return self._everything(self._tape.now())

    def _everything(self, tape: Tape) -> Reply:
        rows = len(tape)
        newest = max(rows - WINDOW, 0)
        start = newest if self.token is None else self.token // WINDOW * WINDOW
        content, buffers = page(tape, start, min(start + WINDOW, rows))
        content |= {"counted": tape.complete, "shows": self._shows}
        return content, [*buffers, *sums(tape.totals())]

    def _page(self, row: int) -> Reply:
        start = max(row, 0) // WINDOW * WINDOW
        tape = self._tape.now()
        return page(tape, start, min(start + WINDOW, len(tape)))

    def _expert(self, layer: int, expert: int) -> Reply:
        trace = self._tape.trace
        layer, expert = any_layer(trace, layer), expert_of(trace, expert)
        return expert_facts(self._tape.now(), facts(trace), layer, expert), ()

    def _details(self, row: int) -> Reply:
        return details(self._tape.trace, row), ()

    questions: ClassVar = {
        "snapshot": _snapshot,
        "page": _page,
        "expert": _expert,
        "details": _details,
    }

    @validate("token", "layer", "expert")
    def _check(self, proposal: dict[str, Any]) -> int | None:
        value, name = proposal["value"], proposal["trait"].name
        if value is None:
            return None
        check = {"token": row_of, "layer": any_layer, "expert": expert_of}[name]
        # Rows are counted with those that steps have told since.
        known: Any = self._tape if name == "token" else self._tape.trace
        try:
            return int(check(known, value))
        except InputError as error:
            raise Refused(str(error)) from None


def _trace_of(source: Any) -> Trace:
    """Return the trace of a source.

    Raises:
        InputError: It is neither a trace nor a stream.
    """
    if hasattr(source, "watch"):
        source = source.trace
    if not all(hasattr(source, name) for name in ("tokens", "routing", "meta")):
        raise InputError(
            "A view shows a Trace, or a stream made by model.stream(…); given was "
            f"{type(source).__name__}."
        )
    trace: Trace = source
    return trace
