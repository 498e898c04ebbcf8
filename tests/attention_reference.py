"""What attention should hold, found without the kit: queries and keys, softmax, plain loops."""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

import v4kit
from tests import zoo
from tests.references import decoder_layers
from tests.zoo import CSA, HCA

NAMES = ("tiny", "small", "wide", *zoo.OTHERS)
"""Models whose attention gives its weights, in `eager`."""


@functools.cache
def eager(name: str, dtype: torch.dtype = torch.float32) -> v4kit.Model:
    """A model that returns its attention weights; shared, so leave it as you find it."""
    if name == "tiny":
        return v4kit.load(dtype=str(dtype).removeprefix("torch."))
    hf = zoo.fresh(name, dtype=dtype, attn_implementation="eager")
    model = v4kit.wrap(hf, zoo.tokenizer())
    model.stop_ids = frozenset()
    return model


def ids_of(model: v4kit.Model, length: int) -> list[int]:
    """The first ids of a text."""
    return [0, *model.tokenizer(zoo.TEXT * 4)["input_ids"]][:length]


Source = tuple[int, int, int]
"""First position, end (excluded), and kind: 0 a single token, 1 a block."""


@dataclass(frozen=True)
class Call:
    """What one layer's attention function was given in one pass, in float64, and what it gave."""

    query: np.ndarray
    """`[batch, head, token, channel]`."""
    key: np.ndarray
    """`[batch, key head, column, channel]`."""
    mask: np.ndarray | None
    """`[batch, 1, token, column]`."""
    scaling: float
    sinks: np.ndarray | None
    """`[head]`."""
    returned: np.ndarray
    """The weights `[batch, head, token, column]`."""


@dataclass(frozen=True)
class Row:
    """One token's attention in one layer, all columns that it sees."""

    sources: list[Source]
    masses: np.ndarray
    """`[head, column]`."""
    sink: np.ndarray | None
    """`[head]`; None: there are no sinks."""
    visible: int
    """Blocks that it sees; −1 in a layer without blocks."""
    chosen: int
    """Those that the indexer chose; all where there is none."""


Rows = dict[int, dict[int, Row]]
"""Rows by layer and position."""


def sight(config: Any, layer: int) -> tuple[int | None, int, int]:
    """Window (None: everything before), rate and span of a layer (0: no blocks)."""
    kinds = getattr(config, "layer_types", None)
    kind = kinds[layer] if kinds else ""
    window = None if kind == "full_attention" else getattr(config, "sliding_window", None)
    rate = config.compress_rates[kind] if kind in (CSA, HCA) else 0
    return window, rate, 2 * rate if kind == CSA else rate


def block(number: int, rate: int, span: int) -> Source:
    """The tokens that a compressed entry covers."""
    return max(0, rate * (number + 1) - span), rate * (number + 1), 1


def sources(position: int, window: int | None, rate: int, span: int) -> list[Source]:
    """All that the query at a position sees: tokens, then blocks."""
    tokens = [u for u in range(position + 1) if window is None or u > position - window]
    seen = [(token, token + 1, 0) for token in tokens]
    if rate:
        number = 0
        while rate * (number + 1) <= position + 1:
            seen.append(block(number, rate, span))
            number += 1
    return seen


class Listener:
    """Hears what transformers' eager attention is called with, and what the indexers choose."""

    def __init__(self, hf: Any) -> None:
        self.hf = hf
        self.calls: dict[int, list[Call]] = {}
        self.chosen: dict[int, list[np.ndarray]] = {}
        self._module = sys.modules[type(decoder_layers(hf)[0].self_attn).__module__]
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        self._original = self._module.eager_attention_forward
        self._module.eager_attention_forward = self._forward
        for layer, decoder in enumerate(decoder_layers(self.hf)):
            compressor = getattr(decoder.self_attn, "compressor", None)
            if hasattr(compressor, "indexer"):
                hook = self._indexer(layer)
                self._handles.append(compressor.indexer.register_forward_hook(hook))
        return self

    def __exit__(self, *_: object) -> None:
        self._module.eager_attention_forward = self._original
        for handle in self._handles:
            handle.remove()

    def _forward(self, module, query, key, value, attention_mask, scaling, **named):
        output = self._original(module, query, key, value, attention_mask, scaling, **named)
        sinks = getattr(module, "sinks", None)
        call = Call(
            _float64(query),
            _float64(key),
            None if attention_mask is None else _float64(attention_mask),
            scaling,
            None if sinks is None else _float64(sinks),
            _float64(output[1]),
        )
        self.calls.setdefault(module.layer_idx, []).append(call)
        return output

    def _indexer(self, layer: int):
        def hook(_module, _inputs, output) -> None:
            count = np.array([[sum(c >= 0 for c in t) for t in row] for row in output.tolist()])
            self.chosen.setdefault(layer, []).append(count)

        return hook

    def rows(
        self, passes: Sequence[tuple[int, int]], *, batch: int = 0, returned: bool = False
    ) -> Rows:
        """Every token's attention in the calls so far.

        Args:
            passes: Start and stop of each call's tokens.
            batch: Row of the batch.
            returned: Use the weights that the module returned, not those computed here.
        """
        found: Rows = {}
        for layer, calls in self.calls.items():
            rows = found.setdefault(layer, {})
            for number, (call, (start, stop)) in enumerate(zip(calls, passes, strict=True)):
                view = sight(self.hf.config.get_text_config(), layer)
                weights, sink = (given if returned else softmax)(call, batch)
                columns = columns_of(weights.shape[-1], stop, view)
                for place, position in enumerate(range(start, stop)):
                    seen = sources(position, *view)
                    at = [columns.index(source) for source in seen]
                    others = np.setdiff1d(np.arange(len(columns)), at)
                    assert not weights[:, place, others].any(), (layer, position)
                    visible = sum(kind for _, _, kind in seen) if view[1] else -1
                    chosen = visible
                    if layer in self.chosen:
                        chosen = int(self.chosen[layer][number][batch][place])
                    rows[position] = Row(
                        seen,
                        weights[:, place, at],
                        None if call.sinks is None else sink[:, place],
                        visible,
                        chosen,
                    )
        return found


def _float64(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy().copy()


def columns_of(width: int, stop: int, view: tuple[int | None, int, int]) -> list[Source]:
    """What the columns of a pass that ends before `stop` stand for: tokens up to there, blocks."""
    _, rate, span = view
    n_blocks = stop // rate if rate else 0
    n_window = width - n_blocks
    tokens: list[Source] = [(u, u + 1, 0) for u in range(stop - n_window, stop)]
    return tokens + [block(number, rate, span) for number in range(n_blocks)]


def softmax(call: Call, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights `[head, token, column]` and the sinks' `[head, token]`, in float64."""
    query = call.query[batch]
    heads = len(query)
    key = np.repeat(call.key[batch], heads // call.key.shape[1], axis=0)
    logits = np.einsum("htc,hkc->htk", query, key) * call.scaling
    if call.mask is not None:
        logits += call.mask[min(batch, len(call.mask) - 1)]
    sinks = np.full(heads, -np.inf) if call.sinks is None else call.sinks
    top = np.maximum(logits.max(-1), sinks[:, None])
    powers = np.exp(logits - top[..., None])
    sink = np.exp(sinks[:, None] - top)
    total = powers.sum(-1) + sink
    return powers / total[..., None], sink / total


def given(call: Call, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """The weights as the module returned them; the sinks have the rest, which may be below 0."""
    weights = call.returned[batch]
    return weights, 1 - weights.sum(-1)


def bits(shares: np.ndarray) -> float:
    """Entropy of shares that may contain zeros."""
    some = shares[shares > 0]
    return float(-(some * np.log2(some)).sum())


def compare_attention(trace: v4kit.Trace, expected: Rows, *, tolerance: float) -> dict[str, float]:
    """Assert that a trace of one document holds these rows; return the largest errors."""
    attention = trace.attention.load()
    data = {str(name): v.to_numpy() for name, v in attention.data_vars.items()}
    each = "head" in attention["sink"].dims
    kept = trace.meta["attention"]["sources"]
    positions, valid = (trace.tokens[n].tolist() for n in ("position", "valid"))
    assert {p for p, v in zip(positions, valid, strict=True) if v} == set(expected[0])
    assert len(data["sink"]) == len(positions)
    errors: dict[str, float] = {}
    for row, position in enumerate(positions):
        if not valid[row]:
            continue
        for layer, rows in expected.items():
            reference = rows[position]
            here = {name: array[row, layer] for name, array in data.items()}
            assert here["visible_blocks"] == reference.visible, (position, layer)
            assert here["chosen_blocks"] == reference.chosen, (position, layer)
            sinks = reference.sink
            heads: list[Any] = [slice(None)] if not each else list(range(len(reference.masses)))
            for head in heads:
                masses = reference.masses[head].reshape(-1, len(reference.sources)).mean(0)
                sink = None if sinks is None else max(0.0, float(np.mean(sinks[head])))
                found = {n: a[head] if each and a.ndim else a for n, a in here.items()}
                wrong = _differences(found, reference.sources, masses, sink, kept)
                for name, error in wrong.items():
                    assert error <= tolerance, (name, error, position, layer)
                    errors[name] = max(errors.get(name, 0.0), error)
    return errors


def _differences(
    found: dict[str, Any],
    seen: list[Source],
    masses: np.ndarray,
    sink: float | None,
    kept: int | str,
) -> dict[str, float]:
    """How far one row's (and head's) numbers lie from the expected ones; asserts what is exact."""
    there = found["kind"] >= 0
    triples = [found[name][there].tolist() for name in ("start", "stop", "kind")]
    recorded = list(zip(*triples, strict=True))
    mass = found["mass"][there].astype(np.float64)
    for name in ("start", "stop", "kind"):
        assert (found[name][~there] == -1).all(), name
    assert (found["mass"][~there] == 0).all()
    assert len(set(recorded)) == len(recorded)
    expected = dict(zip(seen, masses, strict=True))
    assert set(recorded) <= set(seen), (set(recorded) - set(seen), seen)
    count = len(seen)
    if kept == "full":
        assert recorded == seen
    else:
        count = min(int(kept), count)
        assert there.tolist() == sorted(there.tolist(), reverse=True)
        assert (np.diff(mass) <= 0).all()
        assert len(found["mass"]) == kept
    strongest = np.sort(masses)[::-1][:count]
    ranked = np.zeros(count)
    ranked[: len(mass)] = np.sort(mass)[::-1]
    single = np.array([kind == 0 for _, _, kind in seen])
    # Without sinks, what rounding takes from the weights counts as not kept.
    whole = 1.0 if sink is None else masses.sum()
    shares = {
        "sink": sink or 0.0,
        "window": masses[single].sum(),
        "compressed": masses[~single].sum(),
        "rest": 0.0 if kept == "full" else max(0.0, whole - strongest.sum()),
        "entropy_bits": bits(np.append(masses, sink or 0.0)),
    }
    wrong = {name: abs(float(found[name]) - value) for name, value in shares.items()}
    wrong["ranked"] = float(np.abs(ranked - strongest).max(initial=0))
    wrong["mass"] = max(
        (abs(m - expected[s]) for s, m in zip(recorded, mass, strict=True)), default=0.0
    )
    return wrong
