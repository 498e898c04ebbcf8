"""How much a token weighs in its blocks: from hidden states and parameters, in float64."""

import itertools

import numpy as np
import pytest
import torch
from accelerate import disk_offload

import v4kit
from tests import zoo
from tests.attention_reference import eager, ids_of, sight
from tests.recording.test_record import batch, document
from tests.references import hook_count, spans
from v4kit import Record
from v4kit.errors import InputError, TraceError

POOLED = Record(pooling=True)
NAMES = ("tiny", "small", "wide")


class States:
    """Own hooks: the hidden states that go into every compressor, pass after pass."""

    def __init__(self, hf) -> None:
        self._hf = hf
        self._states: dict[int, list[torch.Tensor]] = {}
        self._handles = []
        # By now, since parameters may go to the disk later.
        self._parameters = {}
        for layer, decoder in enumerate(hf.model.layers):
            if compressor := decoder.self_attn.compressor:
                gate, bias = compressor.gate_proj.weight, compressor.position_bias
                self._parameters[layer] = tuple(p.detach().double().numpy() for p in (gate, bias))

    def __enter__(self):
        for layer in self._parameters:
            module = self._hf.model.layers[layer].self_attn.compressor
            self._handles.append(module.register_forward_pre_hook(self._hook(layer)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, layer: int):
        def hook(_module, inputs) -> None:
            self._states.setdefault(layer, []).append(inputs[0].detach().double())

        return hook

    def expected(self, *, row: int = 0, length: int | None = None) -> np.ndarray:
        """Weights `[token, layer, 2]` in a token's own block and in the next; NaN: no such block.

        `length` is that of the document, without padding.
        """
        layers = len(self._hf.model.layers)
        some = next(iter(self._states.values()))
        length = sum(part.shape[1] for part in some) if length is None else length
        found = np.full((length, layers, 2), np.nan)
        for layer, states in self._states.items():
            weight, bias = self._parameters[layer]
            gate = torch.cat(states, dim=1)[row].numpy() @ weight.T
            _, rate, span = sight(self._hf.config, layer)
            for number in range(length // rate):
                self._block(found[:, layer], gate, bias, rate, span == 2 * rate, number)
        return found

    @staticmethod
    def _block(found, gate, bias, rate, overlaps, number) -> None:
        """Fill in the weights of one block's tokens: a softmax per channel, then the mean."""
        half = gate.shape[1] // 2 if overlaps else 0
        members = [(t, 0, half) for t in range(rate * number, rate * (number + 1))]
        if overlaps and number:
            members += [(t, 1, 0) for t in range(rate * (number - 1), rate * number)]
        width = gate.shape[1] - half
        logits = np.array(
            [(gate[t] + bias[t % rate])[first : first + width] for t, _, first in members]
        )
        powers = np.exp(logits - logits.max(0))
        weights = (powers / powers.sum(0)).mean(1)
        for (token, which, _), one in zip(members, weights, strict=True):
            found[token, which] = one


def pools(trace: v4kit.Trace) -> np.ndarray:
    """What the trace holds `[token, layer, 2]`."""
    values = trace.stored_attention.values
    return np.stack([values["pool_own"].to_numpy(), values["pool_next"].to_numpy()], axis=-1)


def compare(trace: v4kit.Trace, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Assert a document's weights, and that rows that were not fed have none."""
    found = pools(trace)
    np.testing.assert_allclose(found[: len(expected)], expected, atol=tolerance)
    assert np.isnan(found[len(expected) :]).all()


class TestWeights:
    @pytest.mark.parametrize("chunk", [None, 1, 5, 29])
    @pytest.mark.parametrize("name", NAMES)
    def test_reading(self, name, chunk) -> None:
        model = eager(name)
        ids = ids_of(model, 38 if chunk == 1 else 75)
        with States(model.hf) as states:
            trace = model.read(ids, prefill_chunk=chunk, record=POOLED)
        compare(trace, states.expected())

    @pytest.mark.parametrize("kept", [{"attention": "full"}, {"attention": 1, "heads": "each"}])
    def test_decoding(self, kept) -> None:
        """Blocks that single tokens complete, the one before in another pass."""
        model = eager("small")
        record = Record(pooling=True, **kept)
        with States(model.hf) as states:
            stream = model.stream(ids_of(model, 14), max_new_tokens=24, record=record)
            next(stream)
            compare(stream.trace, states.expected())
            list(stream)
        compare(stream.trace, states.expected())

    def test_they_add_up_to_one(self) -> None:
        model = eager("tiny")
        trace = model.read(ids_of(model, 99), record=POOLED)
        found = pools(trace).astype(np.float64)
        for layer, described in enumerate(model.architecture.layers):
            rate, span = described.rate, described.span
            if not rate:
                assert np.isnan(found[:, layer]).all()
                continue
            for number in range(99 // rate):
                own = found[rate * number : rate * (number + 1), layer, 0]
                total = own.sum()
                if span > rate and number:
                    total += found[rate * (number - 1) : rate * number, layer, 1].sum()
                assert abs(total - 1) < 1e-6
                assert own.std() > 1e-4

    @pytest.mark.parametrize("name", NAMES)
    def test_bfloat16(self, name) -> None:
        model = eager(name, torch.bfloat16)
        ids = ids_of(model, 99)
        with States(model.hf) as states:
            whole = model.read(ids, record=POOLED)
        compare(whole, states.expected(), tolerance=5e-3)
        with States(model.hf) as states:
            parts = model.read(ids, prefill_chunk=10, record=POOLED)
        compare(parts, states.expected(), tolerance=5e-3)

    def test_not_unless_asked(self) -> None:
        trace = eager("small").read([0, *range(20, 60)])
        assert "pool_own" not in trace.stored_attention.values
        with pytest.raises(InputError, match=r"not recorded.*Record\(pooling=True\)"):
            trace.attention_to_tokens(convention="pooled")

    def test_models_without_blocks(self) -> None:
        """There is nothing to pool, and so nothing to fail on."""
        model = eager("gpt_oss")
        trace = model.read(ids_of(model, 20), record=POOLED)
        assert np.isnan(pools(trace)).all()
        folded = trace.attention_to_tokens(convention="pooled")
        uniform = trace.attention_to_tokens(convention="uniform")
        np.testing.assert_array_equal(folded["window"], uniform["window"])
        assert (folded["compressed"] == 0).all()

    def test_without_attention(self) -> None:
        trace = eager("small").read("Hi", record=Record(attention=None, pooling=True))
        with pytest.raises(TraceError, match="not asked for"):
            trace.attention_to_tokens(convention="pooled")


class TestDocuments:
    def test_read_many(self, tmp_path) -> None:
        model = eager("wide")
        texts = [ids_of(model, length) for length in (70, 3, 33)]
        expected = []
        for ids in texts:
            with States(model.hf) as states:
                model.read(ids, prefill_chunk=20)
            expected.append(states.expected())
        options = {"prefill_chunk": 20, "record": POOLED, "progress": False}
        for folder in (None, tmp_path / "run"):
            trace = model.read_many(texts, save_to=folder, **options)
            for number in range(3):
                compare(document(trace, number), expected[number])
            assert not np.isnan(pools(trace)[:, 0, 0]).all()

    def test_batch_and_two_caches(self) -> None:
        hf = eager("small").hf
        ids = [batch(2, 40), batch(1, 33, seed=1)]
        seen, caches = [States(hf), States(hf)], [None, None]
        with v4kit.record(hf, POOLED) as recording, torch.no_grad():
            for start, stop in spans(40, 7, 28):
                for i in (0, 1):
                    if stop <= ids[i].shape[1]:
                        with seen[i]:
                            out = hf(ids[i][:, start:stop], past_key_values=caches[i])
                        caches[i] = out.past_key_values
        for number, (i, row) in enumerate([(0, 0), (0, 1), (1, 0)]):
            compare(document(recording.trace, number), seen[i].expected(row=row))

    def test_right_padding(self) -> None:
        """A block that padding completes is none: the document alone would not have it."""
        model, ids = eager("small"), batch(2, 40)
        mask = torch.ones_like(ids)
        mask[1, 22:] = 0
        with (
            States(model.hf) as states,
            v4kit.record(model.hf, POOLED) as recording,
            torch.no_grad(),
        ):
            model.hf(ids, attention_mask=mask)
        compare(document(recording.trace, 0), states.expected(row=0))
        alone = model.read(ids[1, :22].tolist(), record=POOLED)
        np.testing.assert_allclose(states.expected(row=1, length=22), pools(alone), atol=1e-5)
        compare(document(recording.trace, 1), states.expected(row=1, length=22))

    def test_cache_from_before_the_block(self) -> None:
        """Tokens that were fed while nothing was recorded are not in the trace."""
        hf, ids = eager("wide").hf, batch(1, 75)
        with States(hf) as states, torch.no_grad():
            cache = hf(ids[:, :43]).past_key_values
            with v4kit.record(hf, POOLED) as recording:
                hf(ids[:, 43:60], past_key_values=cache)
                for t in range(60, 75):
                    hf(ids[:, t : t + 1], past_key_values=cache)
        expected = states.expected()[43:]
        found = pools(recording.trace)
        # The weights of token 43 in block 10 are known, those of tokens 40 to 42 are not kept.
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_error_in_a_pass(self) -> None:
        model = eager("small")

        def fail(event: v4kit.recording.RouterEvent) -> None:
            if event.layer == 4 and int(event.positions[-1]) >= 31:
                raise LookupError("mine")

        stream = model.stream(ids_of(model, 20), max_new_tokens=30, record=POOLED)
        with (
            States(model.hf) as states,
            pytest.raises(LookupError),
            model.tap("router", fail),
        ):
            list(stream)
        trace = stream.trace
        assert trace.tokens["valid"].sum() == 31
        # Layers up to the fourth have seen the token that the trace does not have.
        compare(trace, states.expected(length=31))
        assert hook_count(model.hf) == 0

    def test_disk_offload(self, tmp_path) -> None:
        hf = zoo.fresh("small")
        states = States(hf)
        disk_offload(hf, tmp_path, execution_device="cpu")
        model = v4kit.wrap(hf, zoo.tokenizer())
        compressor = hf.model.layers[2].self_attn.compressor
        assert compressor.position_bias.device.type == "meta"
        with states:
            trace = model.read(ids_of(model, 70), prefill_chunk=30, record=POOLED)
        compare(trace, states.expected())


def folded(trace: v4kit.Trace, data, at: tuple[int, ...], convention: str) -> np.ndarray:
    """Masses `[kind, position]` of a row, a layer and perhaps a head, by plain loops.

    `data` is what `trace.attention` says.
    """
    row, layer = at[:2]
    own = (trace.tokens["document"] == trace.tokens["document"][row]).to_numpy()
    length = int(trace.tokens["position"][own].max()) + 1
    weights = {}
    if convention == "pooled":
        for place, pair in zip(trace.tokens["position"][own], pools(trace)[own], strict=True):
            weights[int(place)] = pair[layer]
    rate = trace.meta["architecture"]["layers"][layer]["rate"]
    result = np.zeros((2, length))
    arrays = [data[n].to_numpy()[at].tolist() for n in ("start", "stop", "mass", "kind")]
    for start, stop, mass, kind in zip(*arrays, strict=True):
        if kind < 0 or mass == 0:
            continue
        for token in range(start, stop):
            share = 1 / (stop - start)
            if kind == 1 and convention == "pooled":
                share = float(weights[token][0 if token >= stop - rate else 1])
            result[kind, token] += mass * share
    return result


class TestFold:
    @pytest.mark.parametrize("convention", ["uniform", "pooled"])
    @pytest.mark.parametrize(
        "record",
        [POOLED, Record(attention=7, heads="each", pooling=True),
         Record(attention="full", pooling=True),
         Record(attention="full", heads="each", pooling=True)],
        ids=["mean", "each", "full", "full each"],
    )  # fmt: skip
    def test_against_loops(self, convention, record) -> None:
        model = eager("small")
        trace = model.read(ids_of(model, 57), prefill_chunk=20, record=record)
        result = trace.attention_to_tokens(convention=convention)
        assert result.attrs["convention"] == convention
        data = trace.attention.load()
        heads = [(0,), (3,)] if "head" in result.dims else [()]
        for row, layer, head in itertools.product((0, 3, 7, 8, 31, 55, 56), range(6), heads):
            at = (row, layer, *head)
            found = np.stack([result[n].to_numpy()[at] for n in ("window", "compressed")])
            np.testing.assert_allclose(found, folded(trace, data, at, convention), atol=1e-5)
            rest = sum(float(result[n].to_numpy()[at]) for n in ("sink", "rest"))
            assert abs(found.sum() + rest - 1) < 1e-5

    def test_rows_layers_and_several_documents(self) -> None:
        model = eager("wide")
        texts = [ids_of(model, 35), ids_of(model, 66)[::-1], [0, 50, 60]]
        trace = model.read_many(texts, record=POOLED, prefill_chunk=30, progress=False)
        rows = [100, 34, 35, 70, 103, 0]
        for convention in ("uniform", "pooled"):
            result = trace.attention_to_tokens(rows, layers=[4, 1], convention=convention)
            assert result.sizes["position"] == 66
            assert result["token"].to_numpy().tolist() == rows
            assert result["layer"].to_numpy().tolist() == [4, 1]
            for place, row in enumerate(rows):
                for number, layer in enumerate((4, 1)):
                    expected = folded(trace, trace.attention, (row, layer), convention)
                    length = expected.shape[1]
                    for kind, name in enumerate(("window", "compressed")):
                        found = result[name].to_numpy()[place, number]
                        np.testing.assert_allclose(found[:length], expected[kind], atol=1e-5)
                        assert (found[length:] == 0).all()

    def test_the_last_row_is_missing(self) -> None:
        model = eager("small")
        trace = model.generate(ids_of(model, 17), max_new_tokens=3, record=POOLED)
        for convention in ("uniform", "pooled"):
            result = trace.attention_to_tokens(convention=convention)
            assert result.sizes["position"] == len(trace)
            for name in ("window", "compressed", "sink", "rest"):
                assert result[name][-1].isnull().all()
                assert result[name][:-1].notnull().all()

    @pytest.mark.parametrize("attention", [16, "full"])
    def test_slices_that_cut_a_block(self, attention) -> None:
        model = eager("small")
        record = Record(attention=attention, pooling=True)
        trace = model.read(ids_of(model, 57), record=record)
        part = trace[30:]
        with pytest.raises(InputError, match=r"not in this trace.*cut off by a slice.*whole trace"):
            part.attention_to_tokens(layers=3, convention="pooled")
        # Evenly, nothing is lacking; and layers without blocks need no weights.
        result = part.attention_to_tokens(layers=[2, 3])
        whole = trace.attention_to_tokens(list(range(30, 57)), layers=[2, 3])
        for name in ("window", "compressed"):
            np.testing.assert_array_equal(result[name], whole[name])
        part.attention_to_tokens(layers=[0, 1], convention="pooled")
        # All tokens of the blocks that these rows see are there.
        start = trace[:40].attention_to_tokens(layers=3, convention="pooled")
        expected = trace.attention_to_tokens(list(range(40)), layers=3, convention="pooled")
        np.testing.assert_array_equal(
            start["compressed"], expected["compressed"].isel(position=slice(0, 40))
        )

    def test_rows_of_a_slice_that_need_nothing_else(self) -> None:
        """The weights may come from rows that are not folded."""
        model = eager("small")
        trace = model.read(ids_of(model, 57), record=POOLED)
        result = trace.attention_to_tokens([56], convention="pooled")
        for layer in range(6):
            expected = folded(trace, trace.attention, (56, layer), "pooled")
            for kind, name in enumerate(("window", "compressed")):
                np.testing.assert_allclose(result[name][0, layer], expected[kind], atol=1e-5)

    def test_bad_input(self) -> None:
        model = eager("small")
        trace = model.read(ids_of(model, 20), record=POOLED)
        with pytest.raises(InputError, match=r"'uniform', 'pooled'.*'even'"):
            trace.attention_to_tokens(convention="even")
        for layers in (6, -1, [0, 99]):
            with pytest.raises(InputError, match="layers 0 to 5"):
                trace.attention_to_tokens(layers=layers)
        with pytest.raises(IndexError):
            trace.attention_to_tokens([20])
