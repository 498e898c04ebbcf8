"""How tokens are drawn, and when a generation ends."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import v4kit
from tests import zoo
from tests.references import bare_run, log_softmax
from v4kit.engines.base import Sampling
from v4kit.engines.sampler import Sampler

PROMPT = "Tell me a story."
LOGITS = st.lists(st.floats(-12, 12, width=32), min_size=1, max_size=12)


def draw(model: v4kit.Model, **options) -> list[int]:
    trace = model.generate(PROMPT, max_new_tokens=12, **options)
    return trace.tokens["id"][trace.tokens["phase"] == "generated"].tolist()


class TestSeeds:
    def test_same_seed_same_tokens(self) -> None:
        model = zoo.model("small")
        first = draw(model, temperature=1.0, seed=7)
        assert draw(model, temperature=1.0, seed=7) == first
        assert draw(model, temperature=1.0, seed=np.int64(7)) == first
        others = [draw(model, temperature=1.0, seed=seed) for seed in (8, 9)]
        assert first not in others

    def test_global_generator_is_neither_used_nor_moved(self) -> None:
        model = zoo.model("small")
        torch.manual_seed(1)
        first = draw(model, temperature=1.0, seed=7)
        state = torch.random.get_rng_state()
        assert draw(model, temperature=1.0, seed=7) == first
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_no_seed_takes_one_and_tells_it(self) -> None:
        model = zoo.model("small")
        traces = [model.generate(PROMPT, max_new_tokens=12, temperature=1.0) for _ in range(2)]
        assert traces[0].meta["seed"] != traces[1].meta["seed"]
        assert traces[0].meta["sampling"]["seed"] is None
        again = draw(model, temperature=1.0, seed=traces[0].meta["seed"])
        generated = traces[0].tokens["phase"] == "generated"
        assert again == traces[0].tokens["id"][generated].tolist()

    @pytest.mark.parametrize("temperature", [1e-3, 1e-12, 1e-300])
    def test_temperature_near_zero_is_greedy(self, temperature) -> None:
        model = zoo.model("small")
        assert draw(model, temperature=temperature, seed=1) == draw(model)

    def test_stream_and_generate_draw_alike(self) -> None:
        model = zoo.model("small")
        steps = list(model.stream(PROMPT, max_new_tokens=12, temperature=1.0, seed=7))
        assert [step.token for step in steps] == draw(model, temperature=1.0, seed=7)


def kept(logits: list[float], temperature: float, top_p: float) -> set[int]:
    """The smallest set of most probable tokens whose mass reaches top_p, found one by one."""
    logp = log_softmax([x / temperature for x in logits])
    mass, chosen = 0.0, set()
    for token in sorted(range(len(logp)), key=lambda t: (-logp[t], t)):
        if mass >= top_p - 1e-12:
            break
        chosen.add(token)
        mass += math.exp(logp[token])
    return chosen


class TestTopP:
    @settings(max_examples=60, deadline=None)
    @given(LOGITS, st.floats(0.05, 1.0), st.sampled_from([0.5, 1.0, 2.0]))
    def test_only_the_smallest_set_is_drawn_from(self, logits, top_p, temperature) -> None:
        sampler = Sampler(Sampling(temperature=temperature, top_p=top_p, seed=0))
        expected = kept(logits, temperature, top_p)
        drawn = {sampler.draw(torch.tensor(logits)) for _ in range(40)}
        # A mass that meets top_p exactly may round to either side.
        assert drawn <= expected | kept(logits, temperature, min(1.0, top_p + 1e-9))

    def test_the_whole_set_is_drawn_from(self) -> None:
        logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
        for top_p, expected in ((0.5, {0}), (0.51, {0, 1}), (0.8, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
            sampler = Sampler(Sampling(temperature=1.0, top_p=top_p, seed=0))
            assert {sampler.draw(logits) for _ in range(300)} == expected, top_p

    def test_mass_that_is_met_exactly(self) -> None:
        """Two of four equal tokens are half of the mass; the lower ids count first."""
        for top_p, expected in ((0.25, {0}), (0.5, {0, 1}), (0.75, {0, 1, 2})):
            sampler = Sampler(Sampling(temperature=1.0, top_p=top_p, seed=0))
            assert {sampler.draw(torch.zeros(4)) for _ in range(100)} == expected

    def test_frequencies(self) -> None:
        """Within the set, tokens come as often as their renormalised probabilities say."""
        logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
        sampler = Sampler(Sampling(temperature=1.0, top_p=0.85, seed=0))
        counts = np.bincount([sampler.draw(logits) for _ in range(4000)], minlength=4) / 4000
        np.testing.assert_allclose(counts, [4 / 9, 3 / 9, 2 / 9, 0], atol=0.03)

    def test_temperature(self) -> None:
        logits = torch.tensor([2.0, 1.0, 0.0])
        sampler = Sampler(Sampling(temperature=2.0, seed=0))
        counts = np.bincount([sampler.draw(logits) for _ in range(4000)], minlength=3) / 4000
        expected = [math.exp(x) for x in log_softmax([1.0, 0.5, 0.0])]
        np.testing.assert_allclose(counts, expected, atol=0.03)

    def test_logprob_is_untempered(self) -> None:
        """What is recorded is the model's own distribution, whatever was drawn from it."""
        model = zoo.model("small")
        trace = model.generate(PROMPT, max_new_tokens=8, temperature=2.5, top_p=0.6, seed=1)
        ids = trace.tokens["id"].tolist()
        prompt = int((trace.tokens["phase"] == "prompt").sum())
        passes = [(0, prompt), *((i, i + 1) for i in range(prompt, len(ids) - 1))]
        logits = bare_run(model.hf, ids, passes).logits
        for row in range(prompt, len(ids)):
            logp = log_softmax(logits[row - 1].astype(np.float64).tolist())
            np.testing.assert_allclose(trace.tokens["logprob"][row], logp[ids[row]], atol=2e-5)


class Scripted:
    """A head that makes a model say what it should: ids by position."""

    def __init__(self, model: v4kit.Model, prompt: int, script: list[int]) -> None:
        self._model, self._script, self._prompt = model, script, prompt
        self._seen = 0

    def __enter__(self) -> None:
        self._handle = self._model.hf.register_forward_hook(self._hook)

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _hook(self, _module, _inputs, output) -> None:
        self._seen += output.logits.shape[1]
        step = self._seen - self._prompt
        if 0 <= step < len(self._script):
            output.logits[:, -1] = -10.0
            output.logits[:, -1, self._script[step]] = 10.0


class TestEndings:
    """Where a generation stops, with a model that says a fixed text."""

    SAID = "One, two. 🙂 End of it all, and more and more."

    def say(self, **options) -> v4kit.Trace:
        model = zoo.model("mixtral")
        script = model.tokenizer(self.SAID)["input_ids"]
        prompt = len(model.tokenizer(PROMPT)["input_ids"]) + 1
        with Scripted(model, prompt, script):
            return model.generate(PROMPT, **{"max_new_tokens": len(script), **options})

    def test_length(self) -> None:
        trace = self.say()
        assert trace.completion == self.SAID
        assert trace.text == zoo.SPECIAL[0] + PROMPT + self.SAID
        assert trace.meta["stop_reason"] == "length"
        trace = self.say(max_new_tokens=1)
        assert trace.meta["stop_reason"] == "length"
        assert (trace.tokens["phase"] == "generated").sum() == 1

    @pytest.mark.parametrize(
        "stop", ["two.", ", two", "🙂", "End of it", ["nothing", "all, a"], [".", "🙂"], "One"]
    )
    def test_stop_strings(self, stop) -> None:
        """At the token that completes the first of them, however it is cut into tokens."""
        trace = self.say(stop=stop)
        stops = [stop] if isinstance(stop, str) else stop
        assert trace.meta["stop_reason"] == "stop string"
        assert any(text in trace.completion for text in stops)
        before = trace.completion[: -len(trace.tokens["text"].iloc[-1])]
        assert not any(text in before for text in stops)
        assert self.SAID.startswith(trace.completion)

    def test_stop_string_across_many_tokens(self) -> None:
        assert self.say(stop="two. 🙂 End of it all").completion.endswith("all")

    def test_stop_string_in_the_prompt_does_not_count(self) -> None:
        assert self.say(stop="story").meta["stop_reason"] == "length"
        assert self.say(stop="story.One").meta["stop_reason"] == "length"

    def test_stop_token(self) -> None:
        model = zoo.model("mixtral")
        prompt = len(model.tokenizer(PROMPT)["input_ids"]) + 1
        with Scripted(model, prompt, [50, 51, 1, 52]):
            trace = model.generate(PROMPT, max_new_tokens=9)
        assert trace.meta["stop_reason"] == "stop token"
        assert trace.tokens["id"].tolist()[-3:] == [50, 51, 1]
        assert trace.tokens["special"].tolist()[-3:] == [False, False, True]
        assert not trace.completion.endswith(zoo.SPECIAL[1])
        assert trace.text.endswith(zoo.SPECIAL[1])

    def test_context(self) -> None:
        """The last token that fits is fed; the one that it gives is the last row."""
        model = v4kit.wrap(zoo.fresh("mixtral", max_position_embeddings=20), zoo.tokenizer())
        ids = [0, *range(30, 44)]
        trace = model.generate(ids, max_new_tokens=100)
        assert trace.meta["stop_reason"] == "context"
        assert len(trace) == 20
        full = model.generate([0, *range(30, 49)], max_new_tokens=5)
        assert full.meta["stop_reason"] == "context"
        assert len(full) == 21
        assert full.tokens["valid"].tolist() == [True] * 20 + [False]

    def test_on_step(self) -> None:
        model, steps = zoo.model("small"), []
        options = {"max_new_tokens": 5, "temperature": 1.0, "seed": 4}
        trace = model.generate(PROMPT, **options, on_step=steps.append)
        generated = trace.tokens[trace.tokens["phase"] == "generated"]
        assert [step.token for step in steps] == generated["id"].tolist()
        assert [step.text for step in steps] == generated["text"].tolist()
        assert [step.row + 1 for step in steps] == generated.index.tolist()
        for step in steps:
            np.testing.assert_array_equal(step.experts, trace.routing["experts"][step.row])
