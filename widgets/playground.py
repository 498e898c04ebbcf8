"""`Playground`: prompt a model, watch its experts while it writes, stop, go on, try again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

from IPython.display import display, update_display
from traitlets import Bool, Float, Int, List, TraitError, Unicode

from v4kit.errors import InputError, V4KitError
from v4kit.models.chat import EFFORTS, can_chat
from v4kit.widgets.edited import EditedView, effect
from v4kit.widgets.interrupts import INTERRUPTS, main_loop
from v4kit.widgets.runs import Run
from v4kit.widgets.view import Reply, View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from v4kit.core import Record
    from v4kit.engines import Engine, Model
    from v4kit.intervene import Edit
    from v4kit.trace import Trace

KEPT = 20
"""Traces and prompts of earlier runs that are kept."""
GOES_ON = (None, "length", "interrupted", "engine error")
"""Reasons to end after which a run can go on; None: it was stopped."""
ENDED = {
    None: "Stopped.",
    "length": "Done: the length is reached.",
    "stop token": "Done: the model ended its text.",
    "stop string": "Done: a stop string came.",
    "context": "Done: the model's context is full.",
    "interrupted": "Interrupted.",
    "engine error": "The engine broke off; the text that came is kept.",
}
"""What is said of a run that has ended, by its stream's reason to end."""


class Playground(EditedView):
    """A prompt or a chat; the answer streams in, coloured by expert, beside the grid of experts.

    Everything that can be clicked can be called: `run`, `stop`, `go_on`, `retry`, `clear`; all
    settings are traits, and `edits` are what the next run's routing is edited by. `trace` is the
    latest run's, whole at any moment, empty before the first; `traces` are those of all runs that
    have ended, oldest first.

    Args:
        model: A Model, made by `v4kit.load` or `v4kit.wrap`, or an Engine, made by `v4kit.connect`:
            it writes first, and tells the experts once the text has ended or was stopped.
        record: What to record.
        edits: Edits of the routing, as `v4kit.ablate` and its like make them; the page shows them
            with sliders.
        traits: `prompt`, `chat`, `max_new_tokens`, `temperature`, `top_p`, `seed`, `thinking`,
            `layer`, `theme`.

    Raises:
        InputError: It is no Model, or an edit can't take effect in it.
    """

    prompt = Unicode(help="Text to go on from, or the next message of a chat.").tag(sync=True)
    chat = Bool(help="Whether the prompt is a message of a chat.").tag(sync=True)
    max_new_tokens = Int(64, help="Most tokens to generate.").tag(sync=True)
    temperature = Float(0.0, help="0 takes the most probable token.").tag(sync=True)
    top_p = Float(1.0, help="Draws from the smallest set with this probability.").tag(sync=True)
    seed = Int(None, allow_none=True, help="Same seed, same text; None: a new one each time.")
    seed = seed.tag(sync=True)
    thinking = Unicode(None, allow_none=True, help="Reasoning effort of a chat.").tag(sync=True)
    messages: Any = List(help="The chat so far.").tag(sync=True)
    status = Unicode("idle", help="idle, waiting or running.").tag(sync=True)
    message = Unicode(help="What went wrong, if anything did.").tag(sync=True)
    _drawing = Unicode("playground").tag(sync=True)
    _efforts: Any = List().tag(sync=True)
    _chats = Bool().tag(sync=True)
    _ended = Unicode(help="How the latest run ended; empty before the first.").tag(sync=True)
    _open = Bool(help="Whether the latest run can go on.").tag(sync=True)
    _lacks = Unicode(help="What the model does not tell, and why.").tag(sync=True)
    _prompts: Any = List().tag(sync=True)
    _run: Run | None = None

    def __init__(
        self,
        model: Model | Engine,
        *,
        record: Record | None = None,
        edits: Iterable[Edit] = (),
        **traits: Any,
    ) -> None:
        if not hasattr(model, "stream"):
            raise InputError(
                f"Playground runs a Model; given was {type(model).__name__}. "
                "Make one with v4kit.load() or, of a transformers model, with v4kit.wrap(…), or "
                "connect to an engine with v4kit.connect(…)."
            )
        self.model = model
        self.traces: list[Trace] = []
        self._record = record
        self._last: str | list[dict[str, str]] = ""
        self._output, self._displayed = uuid4().hex, False
        self._loop = main_loop()
        chats = can_chat(model.tokenizer, model.edition)
        efforts = list(EFFORTS.get(model.edition or "", {})) if chats else []
        # Nothing is computed for it: a stream only begins with its first step.
        empty = model.stream([0], max_new_tokens=1).trace[:0]
        lacks = " ".join(dict.fromkeys(getattr(model, "lacks", {}).values()))
        super().__init__(empty, edits=edits, _chats=chats, _efforts=efforts, _lacks=lacks, **traits)

    def run(self, prompt: str | None = None, **settings: Any) -> Run:
        """Begin a run; `trace = await playground.run("…")` waits for its end.

        Args:
            prompt: What to go on from; the `prompt` that is in the box if not given.
            settings: `chat`, `max_new_tokens`, `temperature`, `top_p`, `seed`, `thinking`,
                `edits`; they stay for the next run.

        Raises:
            InputError: The prompt or a setting can't be used, or a run is going on.
        """
        if prompt is not None:
            settings["prompt"] = prompt
        unknown = sorted(set(settings) - set(self._settings))
        if unknown:
            raise InputError(f"run has no setting {unknown[0]!r}; it has {self._settings}.")
        for name, value in settings.items():
            setattr(self, name, value)
        asked = self._asked()
        self._prompts = [*(p for p in self._prompts if p != self.prompt), self.prompt][-KEPT:]
        return self._begin(asked)

    def stop(self) -> None:
        """Stop the run that is going on; its trace holds the tokens shown."""
        if self._run is not None:
            self._run.stop()

    def go_on(self) -> Run:
        """Continue the latest run by up to `max_new_tokens` tokens.

        Raises:
            InputError: There is none, it is still going on, or its text has ended by itself.
        """
        self._check_idle()
        if self._run is None:
            raise InputError("There is no run yet that could go on. Run one first.")
        stream = self._run.stream
        if stream.stop_reason is not None:
            stream.extend(self.max_new_tokens)
        self.traces = self.traces[:-1]
        return self._follow(stream)

    def retry(self) -> Run:
        """Run the latest prompt again with another seed.

        Raises:
            InputError: There is no run yet, or one is going on.
        """
        self._check_idle()
        if self._run is None:
            raise InputError("There is no run yet that could be tried again. Run one first.")
        if self.seed is not None:
            self.seed += 1
        return self._begin(self._last)

    def clear(self) -> None:
        """Begin a new chat."""
        self._check_idle()
        self.messages = []

    def close(self) -> None:
        """Stop and end the view."""
        self.stop()
        super().close()

    def on_hidden(self) -> None:
        """Stop: nobody looks any more, and the model may be wanted elsewhere."""
        self.stop()

    # A run, from its beginning to its end.

    _settings = (
        "prompt",
        "chat",
        "max_new_tokens",
        "temperature",
        "top_p",
        "seed",
        "thinking",
        "edits",
    )
    _clicked = (*_settings[:-1], "_rows")
    """What a page sends with a click."""

    def _asked(self) -> str | list[dict[str, str]]:
        if not self.prompt.strip():
            raise InputError("The prompt is empty. Type a text first.")
        if not self.chat:
            return self.prompt
        return [*self.messages, {"role": "user", "content": self.prompt}]

    def _begin(self, asked: str | list[dict[str, str]]) -> Run:
        self._check_idle()
        edits = self.edits
        stream = self.model.stream(
            asked,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            thinking=None if isinstance(asked, str) else self.thinking,
            record=self._record,
            **({"edits": edits} if edits else {}),
        )
        self._last = asked
        self.token = None
        return self._follow(stream)

    def _follow(self, stream: Any) -> Run:
        self.attach(stream)
        self.message = ""
        INTERRUPTS.begin(self.stop, self._loop)
        self._run = Run(self.model, stream, self._on_state)
        return self._run

    def _check_idle(self) -> None:
        if self._run is not None and not self._run.done:
            raise InputError("A run is going on. Stop it first, or wait for its end.")

    def _on_state(self, run: Run, state: str | None) -> None:
        """Hear from the run's thread how it stands."""
        if state is not None:
            self.status = state
            return
        INTERRUPTS.end(self.stop)
        self._settle(run.stream.trace)
        self._keep(self.trace)
        reason = run.stream.stop_reason
        seed = f" Seed {self.trace.meta['seed']}." if self.temperature else ""
        self._open, self._ended = reason in GOES_ON, ENDED[reason] + seed + effect(self.trace)
        if run.error is not None:
            self.message = _sentence(run.error)
        if self._displayed:
            update_display(self.trace, display_id=self._output)  # type: ignore[no-untyped-call]
        self.status = "idle"

    def _keep(self, trace: Trace) -> None:
        self.traces = [*self.traces, trace][-KEPT:]
        if not isinstance(self._last, str):
            self.messages = [*self._last, {"role": "assistant", **_reply(trace)}]

    def _ipython_display_(self, **_: Any) -> None:
        """Show the view, and below it an output that remains when the kernel is gone."""
        self._displayed = True
        show: Any = display
        data, metadata = View._repr_mimebundle_(self) or ({}, {})
        show(data, metadata=metadata, raw=True)
        if len(self.trace):
            show(self.trace, display_id=self._output)
        else:
            show({"text/plain": "", "text/html": ""}, raw=True, display_id=self._output)

    # What the page asks for.

    def _do(self, action: str, settings: dict[str, Any] | None = None) -> Reply:
        actions: dict[str, Callable[[], object]] = {
            "run": self.run,
            "stop": self.stop,
            "go_on": self.go_on,
            "retry": self.retry,
            "clear": self.clear,
        }
        run = actions[action]
        try:
            for name, value in (settings or {}).items():
                if name in self._clicked:
                    setattr(self, name, value)
            run()
        except (V4KitError, TraitError) as error:
            self.message = str(error)
        return {}, ()

    questions: ClassVar = {**EditedView.questions, "do": _do}


def _reply(trace: Trace) -> dict[str, str]:
    """Return what the model said, its reasoning apart."""
    table = trace.tokens[(trace.tokens["phase"] == "generated") & ~trace.tokens["special"]]
    text = {role: "".join(part) for role, part in table.groupby("role")["text"]}
    reasoning = {"reasoning": text["reasoning"]} if "reasoning" in text else {}
    return {"content": text.get("answer", ""), **reasoning}


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, V4KitError) else f"{type(error).__name__}: {error}"
