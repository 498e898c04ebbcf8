"""The intervals are the model's own: what moves when one token moves, in the real modules."""

import functools

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from tests import zoo
from tests.attention_reference import Listener
from v4kit.arch import describe
from v4kit.attention import View, columns

LENGTH = 71
"""Two blocks of 32 and a rest."""
COMPRESSED = [("small", 2), ("small", 3), ("wide", 0), ("wide", 1)]
"""Models and layers with blocks: CSA and HCA, with other windows and rates each."""
CHUNKS = {"whole": [71], "thirteen": [13] * 5 + [6], "uneven": [3, 1, 1, 30, 2, 20, 1, 1, 12]}


@functools.cache
def model(name: str):
    """A model whose indexer chooses every block that can be seen."""
    return zoo.fresh(name, index_topk=1000)


def view_of(name: str, layer: int) -> View:
    described = describe(model(name).config).layers[layer]
    return View(described.window, described.rate, described.span)


def passes(chunks: str) -> list[tuple[int, int]]:
    stops = np.cumsum(CHUNKS[chunks]).tolist()
    assert stops[-1] == LENGTH
    return list(zip([0, *stops[:-1]], stops, strict=True))


def hidden(name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(1, LENGTH, model(name).config.hidden_size, generator=generator)


def compress(name: str, layer: int, states: torch.Tensor, chunks: str):
    """Entries after every pass, and the mask that the compressor adds; through a cache."""
    hf = model(name)
    compressor = hf.model.layers[layer].self_attn.compressor
    cache = DynamicCache(config=hf.config)
    found = []
    for start, stop in passes(chunks):
        residual = torch.zeros(1, stop - start, hf.config.q_lora_rank)
        position = torch.arange(start, stop)[None]
        found.append(compressor(states[:, start:stop], residual, position, cache, layer))
    return found


@pytest.mark.parametrize(("name", "layer"), COMPRESSED)
class TestEntries:
    def test_gradients(self, name, layer) -> None:
        """Without a cache: an entry's gradient is zero outside its interval, not inside."""
        hf, view = model(name), view_of(name, layer)
        compressor = hf.model.layers[layer].self_attn.compressor
        states = hidden(name).requires_grad_()
        residual = torch.zeros(1, LENGTH, hf.config.q_lora_rank)
        entries, _ = compressor(states, residual, torch.arange(LENGTH)[None], None, layer)
        layout = columns(view, before=0, length=LENGTH)
        assert entries.shape[2] == layout.n_blocks >= 2
        for number in range(layout.n_blocks):
            (gradient,) = torch.autograd.grad(
                entries[0, 0, number].square().sum(), states, retain_graph=True
            )
            tokens = (gradient[0].abs().sum(-1) > 0).nonzero().flatten().tolist()
            at = layout.n_window + number
            assert tokens == list(range(layout.start[at], layout.stop[at])), number

    @pytest.mark.parametrize("chunks", CHUNKS)
    @torch.no_grad()
    def test_values(self, name, layer, chunks) -> None:
        """Through a cache: what changes to the bit if one token changes, and what does not."""
        view, states = view_of(name, layer), hidden(name)
        base = compress(name, layer, states, chunks)[-1][0][0, 0]
        layout = columns(view, before=0, length=LENGTH)
        blocks = layout.kind == 1
        start, stop = layout.start[blocks], layout.stop[blocks]
        for token in (0, 1, 3, 4, 12, 15, 16, 31, 32, 33, 63, 64, 67, 70):
            moved = states.clone()
            moved[0, token] += 1
            entries = compress(name, layer, moved, chunks)[-1][0][0, 0]
            changed = (entries != base).any(-1).numpy()
            assert changed.tolist() == ((start <= token) & (token < stop)).tolist(), token

    @pytest.mark.parametrize("chunks", CHUNKS)
    @torch.no_grad()
    def test_first_query_that_sees_it(self, name, layer, chunks) -> None:
        """By the compressor's own mask; a single query sees all that there is."""
        view = view_of(name, layer)
        seen: dict[int, int] = {}
        found = compress(name, layer, hidden(name), chunks)
        for (start, stop), (entries, mask) in zip(passes(chunks), found, strict=True):
            layout = columns(view, before=start, length=stop - start)
            assert entries.shape[2] == layout.n_blocks
            mine = layout.visible()[:, layout.n_window :]
            if mask is None:
                assert mine.all()
                visible = mine
            else:
                visible = (mask[0, 0] == 0).numpy()
                np.testing.assert_array_equal(visible, mine)
            for row, number in np.argwhere(visible):
                seen.setdefault(int(number), start + int(row))
        rate = view.rate
        assert seen == {number: rate * (number + 1) - 1 for number in range(LENGTH // rate)}


class Moved:
    """Adds to a module's output at one position of the document."""

    def __init__(self, module, token: int) -> None:
        self._module, self._token = module, token
        self.start = 0

    def __enter__(self):
        def hook(_module, _inputs, output):
            place = self._token - self.start
            if 0 <= place < output.shape[1]:
                output = output.clone()
                output[:, place] += 1
            return output

        self._handle = self._module.register_forward_hook(hook)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def keys(name: str, layer: int, chunks: str, part: str | None, token: int) -> list[np.ndarray]:
    """Keys `[column, channel]` that the attention function gets in every pass."""
    hf = model(name)
    attention = hf.model.layers[layer].self_attn
    moved = Moved(attention.get_submodule(part) if part else torch.nn.Identity(), token)
    cache, states = DynamicCache(config=hf.config), hidden(name)
    found = []
    with Listener(hf) as heard, moved, torch.no_grad():
        for start, stop in passes(chunks):
            moved.start = start
            position = torch.arange(start, stop)[None]
            piece = states[:, start:stop]
            rotary = {
                kind: hf.model.rotary_emb(piece, position_ids=position, layer_type=kind)
                for kind in ("main", "compress")
            }
            attention(piece, rotary, position, None, past_key_values=cache)
    found = [call.key[0, 0] for call in heard.calls[layer]]
    assert len(found) == len(passes(chunks))
    return found


@pytest.mark.parametrize("chunks", CHUNKS)
class TestColumns:
    """The keys that attention multiplies with: which of them change, and where they stand."""

    @pytest.mark.parametrize(("name", "layer"), [*COMPRESSED, ("small", 0), ("wide", 2)])
    def test_window(self, name, layer, chunks) -> None:
        self.compare(name, layer, chunks, "kv_norm", kind=0)

    @pytest.mark.parametrize(("name", "layer"), COMPRESSED)
    def test_blocks(self, name, layer, chunks) -> None:
        self.compare(name, layer, chunks, "compressor.kv_proj", kind=1)

    def compare(self, name, layer, chunks, part, *, kind) -> None:
        base = keys(name, layer, chunks, None, 0)
        for token in (0, 3, 4, 12, 13, 31, 36, 63, 70):
            several = keys(name, layer, chunks, part, token)
            for one, other, (start, stop) in zip(base, several, passes(chunks), strict=True):
                layout = columns(
                    view_of(name, layer), before=start, length=stop - start, width=len(one)
                )
                expected = (layout.kind == kind) & (layout.start <= token) & (token < layout.stop)
                changed = (one != other).any(-1)
                assert changed.tolist() == expected.tolist(), (token, start, stop)
