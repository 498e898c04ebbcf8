"""The kit's client against what a real vLLM server answered, and transformers on the same model."""

import json

import pytest

import v4kit
from tests.engines.stand_in import StandIn, recorded
from tests.servers import small
from tests.servers.cases import CASES, START, compare
from tests.servers.recorder import ANSWERS


@pytest.fixture(scope="module")
def model() -> v4kit.Model:
    """The model that the server had."""
    return v4kit.wrap(small.build(), small.tokenizer())


@pytest.fixture(params=sorted(ANSWERS.glob("vllm-*.json")), ids=lambda path: path.stem)
def engine(request, model):
    """A client of a server that says again what the real one said."""
    with StandIn(recorded(json.loads(request.param.read_text("utf-8")))) as server:
        yield v4kit.connect(server.url, model=model)


@pytest.mark.parametrize("name", CASES)
def test_the_experts_are_those_of_transformers(name, engine, model) -> None:
    trace = CASES[name](engine)
    assert compare(trace, model, start=START if name == "from a start" else 0) > 0
    assert trace.meta["engine"].startswith("vllm 0.")
    assert trace.meta["routes"]["layers"] == ["captured", "dense", "captured", "captured"]


def test_two_continuations_are_two_documents(engine) -> None:
    trace = CASES["two"](engine)
    first, second = (trace[(trace.tokens["document"] == n).to_numpy()] for n in (0, 1))
    assert trace.tokens["document"].unique().tolist() == [0, 1]
    assert first.tokens["id"].tolist() != second.tokens["id"].tolist()
    prompt = int((first.tokens["phase"] == "prompt").sum())
    assert first.tokens["id"].tolist()[:prompt] == second.tokens["id"].tolist()[:prompt]


def test_check(engine) -> None:
    served = engine.check()
    assert (served.engine, served.version, served.routed_experts) == ("vllm", "0.30.0", True)


def test_a_refusal_in_the_engines_words(engine) -> None:
    with pytest.raises(v4kit.errors.EngineError, match="400: n must be 1 when using greedy"):
        engine.generate("Hello", max_new_tokens=4, temperature=0.0, n=2)
