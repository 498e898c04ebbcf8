"""`Model`: transformers in this process, recorded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from v4kit.arch import describe, family_of
from v4kit.core import Record, to_record
from v4kit.engines.base import OnStep, Sampling, stops, whole
from v4kit.engines.passing import Passing
from v4kit.engines.reading import read, read_many
from v4kit.engines.stream import Stream
from v4kit.engines.text import Prompt, encode_prompt, stop_ids
from v4kit.errors import InputError
from v4kit.intervene import Edit, Editing
from v4kit.models.chat import edition_of
from v4kit.models.gates import run_in_float32
from v4kit.recording import find_attentions, find_indexers, find_routers
from v4kit.recording.meta import trace_meta
from v4kit.trace import Trace


class Model(Passing):
    """A mixture-of-experts model that records what it does.

    Made by `v4kit.load` or `v4kit.wrap`. `hf` and `tokenizer` are transformers' own;
    `architecture` is its layers and experts as data.
    """

    def __init__(
        self,
        hf: Any,
        tokenizer: Any,
        *,
        name: str,
        revision: str | None = None,
        router_dtype: str = "native",
    ) -> None:
        if router_dtype not in ("native", "float32"):
            raise InputError(f"router_dtype is 'float32' or 'native'; given was {router_dtype!r}.")
        super().__init__()
        self.hf = hf
        self.tokenizer = tokenizer
        self.family = family_of(hf.config)
        self.architecture = describe(hf.config)
        self.routers: dict[int, nn.Module] = find_routers(hf, self.family, self.architecture)
        if router_dtype == "float32":
            run_in_float32(self.routers.values())
        self.stop_ids = stop_ids(hf.generation_config, tokenizer)
        self.edition = edition_of(hf.config)
        self.meta = trace_meta(hf, self.architecture, self.routers, name=name, revision=revision)

    @cached_property
    def attentions(self) -> dict[int, nn.Module]:
        """The attention modules whose columns are known, by layer index."""
        return find_attentions(self.hf, self.family, self.architecture)

    @cached_property
    def indexers(self) -> dict[int, nn.Module]:
        """The modules that choose among compressed blocks, by layer index."""
        return find_indexers(self.attentions, self.family)

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.hf.parameters())
        return (
            f"Model({self.meta['model']} · {parameters / 1e6:,.1f} M parameters · "
            f"{self.architecture.n_layers} layers · {self.architecture.n_experts} experts · "
            f"top-{self.architecture.top_k} · {self.meta['dtype']})"
        )

    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        thinking: str | None = None,
        stop: str | Sequence[str] | None = None,
        prefill_chunk: int | None = 256,
        record: Record | None = None,
        edits: Sequence[Edit] = (),
        on_step: OnStep | None = None,
    ) -> Trace:
        """Return the Trace of a prompt and its continuation, recorded in one pass.

        Args:
            prompt: A text, token ids, or chat messages.
            max_new_tokens: Most tokens to generate.
            temperature: 0 takes the most probable token.
            top_p: Draw from the smallest set of tokens with this probability.
            seed: Same seed, same tokens; None takes a new one, told by `trace.meta["seed"]`.
            thinking: Reasoning effort for chat messages; None is chat mode.
            stop: Strings that end the generation once complete.
            prefill_chunk: Tokens of the prompt per forward pass; None reads it whole.
            record: What to record.
            edits: Edits of the routing, for this run alone; as `edit` takes them for a block.
            on_step: Called with every `Step`; a widget is given the stream by its `attach`.

        Raises:
            InputError: The prompt or a setting can't be used, or an edit can't take effect.
            ModelBusy: Another thread is using the model.
        """
        with self.busy():
            stream = self.stream(
                prompt,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
                thinking=thinking,
                stop=stop,
                prefill_chunk=prefill_chunk,
                record=record,
                edits=edits,
            )
            return stream.finish(on_step).trace

    def stream(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        thinking: str | None = None,
        stop: str | Sequence[str] | None = None,
        prefill_chunk: int | None = 256,
        record: Record | None = None,
        edits: Sequence[Edit] = (),
    ) -> Stream:
        """Return an iterator of `Step`s; its `trace` is whole at any moment.

        Arguments and errors are those of `generate`; the model is in use only during a step.
        """
        sampling = Sampling(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop=stops(stop),
        )
        ids = self._encode(prompt, thinking)
        return Stream(
            self,
            ids,
            sampling=sampling,
            prefill_chunk=_chunk(prefill_chunk),
            record=to_record(record),
            editing=self._reaching(edits, len(ids), sampling.max_new_tokens),
            meta={"thinking": thinking},
        )

    def read(
        self,
        text: Prompt,
        *,
        prefill_chunk: int | None = 256,
        record: Record | None = None,
        edits: Sequence[Edit] = (),
    ) -> Trace:
        """Return the Trace of a text that is only read: one pass, with log-probabilities.

        Raises:
            InputError: The text is empty or longer than the model's context, or an edit can't take
                effect.
            ModelBusy: Another thread is using the model.
        """
        ids = self._encode(text, None)
        editing = self._reaching(edits, len(ids), 0)
        chunk, kept = _chunk(prefill_chunk), to_record(record)
        with self.busy():
            return read(self, ids, chunk=chunk, record=kept, editing=editing)

    def read_many(
        self,
        texts: Sequence[Prompt],
        *,
        labels: Sequence[str] | None = None,
        save_to: str | Path | None = None,
        prefill_chunk: int | None = 256,
        record: Record | None = None,
        edits: Sequence[Edit] = (),
        progress: bool = True,
    ) -> Trace:
        """Return one Trace of many documents, read one by one.

        Args:
            texts: Texts, lists of token ids, or conversations.
            labels: One label per document.
            save_to: Folder to write to as it goes; what was written survives a killed process.
            prefill_chunk: Tokens per forward pass; None reads each document whole.
            record: What to record.
            edits: Edits of the routing, for these texts alone.
            progress: Show a progress bar, with the expected size.

        Raises:
            InputError: There is no text, labels and texts differ in number, or an edit can't take
                effect.
            ModelBusy: Another thread is using the model.
            TraceWriteError: The folder is not empty, or the disk is full.
        """
        if isinstance(texts, str):
            raise InputError("read_many takes a list of texts; given was one text. Use read.")
        documents = [self._encode(text, None) for text in texts]
        if labels is not None and len(labels) != len(documents):
            raise InputError(
                f"read_many was given {len(documents)} texts and {len(labels)} labels. "
                "Give one label per text."
            )
        return read_many(
            self,
            documents,
            labels=labels,
            folder=None if save_to is None else Path(save_to),
            chunk=_chunk(prefill_chunk),
            record=to_record(record),
            editing=self._reaching(edits, max(map(len, documents), default=0), 0),
            progress=progress,
        )

    def _reaching(self, edits: Sequence[Edit], prompt: int, further: int) -> Editing | None:
        """Return edits of one run, at work; None if there are none.

        Raises:
            InputError: One can't take effect in this model, or acts on no token of the run.
        """
        if hasattr(edits, "__len__") and not len(edits):
            return None
        editing = self.editing(edits)
        for edit in editing.edits:
            edit.check_reach(prompt, further)
        return editing

    def _encode(self, prompt: Prompt, thinking: str | None) -> list[int]:
        ids = encode_prompt(
            prompt,
            self.tokenizer,
            thinking=thinking,
            edition=self.edition,
            vocabulary=self.architecture.vocabulary,
            context=self.architecture.context,
        )
        if len(ids) > self.architecture.context:
            raise InputError(
                f"The prompt has {len(ids):,} tokens; the model's context holds "
                f"{self.architecture.context:,}. Shorten the prompt."
            )
        return ids


def _chunk(prefill_chunk: int | None) -> int | None:
    return None if prefill_chunk is None else whole("prefill_chunk", prefill_chunk, least=1)
