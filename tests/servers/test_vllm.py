"""A real vLLM server on the CPU against transformers; `make test-engines` has both."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import v4kit
from tests.servers import small
from tests.servers.cases import CASES, START, compare
from tests.servers.recorder import Exchanges

PYTHON = os.environ.get("VLLM_PYTHON")
"""Interpreter of the environment that has vLLM."""
WAIT = 600

pytestmark = pytest.mark.skipif(not PYTHON, reason="no vLLM: run make test-engines")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder."""
    return small.write(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server that returns routed experts and reads 64 tokens at once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(PYTHON),
        *("-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(folder), "--served-model-name", "small"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--enforce-eager", "--max-model-len", "512"),
        *("--max-num-batched-tokens", "64", "--enable-return-routed-experts"),
    ]
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("w") as file:
        server = subprocess.Popen(
            command, env={**os.environ, **quiet}, stdout=file, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(address, server, log)
        yield address
    finally:
        server.terminate()
        server.wait(60)


def _wait(address: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{address}/health").is_success:
                return
        except httpx.HTTPError:
            time.sleep(1)
    pytest.fail(f"vLLM did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def model(folder: Path) -> v4kit.Model:
    """The same model in transformers."""
    return v4kit.load(folder, router_dtype="native")


@pytest.fixture(scope="module")
def kept() -> Iterator[Exchanges]:
    """What the server answers; KEEP_ANSWERS=1 writes it to where the other tests find it."""
    with pytest.MonkeyPatch.context() as patch:
        exchanges = Exchanges(patch)
        yield exchanges
    if os.environ.get("KEEP_ANSWERS"):
        version = next(one for one in exchanges.all if one["path"] == "/version")
        exchanges.write(f"vllm-{version['answer']['version']}")


@pytest.fixture(scope="module")
def engine(url: str, folder: Path, kept: Exchanges) -> Iterator[v4kit.Engine]:
    """The kit's client of it."""
    engine = v4kit.connect(url, model=folder)
    yield engine
    engine.close()


def test_check(engine: v4kit.Engine) -> None:
    served = engine.check()
    assert (served.engine, served.model, served.context) == ("vllm", "small", 512)
    assert served.routed_experts
    assert not served.advice


@pytest.mark.parametrize("name", CASES)
def test_the_experts_are_those_of_transformers(
    name: str, engine: v4kit.Engine, model: v4kit.Model
) -> None:
    trace = CASES[name](engine)
    assert compare(trace, model, start=START if name == "from a start" else 0) > 0
    states = {"captured", "dense"}
    assert set(trace.meta["routes"]["layers"]) == states


def test_greedy_tokens_are_those_of_transformers(engine: v4kit.Engine, model: v4kit.Model) -> None:
    for name in ("completion", "chat", "streamed"):
        trace = CASES[name](engine)
        n_prompt = int((trace.tokens["phase"] == "prompt").sum())
        ids = trace.tokens["id"].tolist()
        own = model.generate(ids[:n_prompt], max_new_tokens=len(ids) - n_prompt)
        assert own.tokens["id"].tolist() == ids


def test_the_prefix_cache_was_hit(engine: v4kit.Engine, url: str) -> None:
    CASES["long, in chunks"](engine)
    CASES["prefix in the cache"](engine)
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    hits = [line for line in lines if line.startswith("vllm:prefix_cache_hits_total")]
    assert sum(float(line.split()[-1]) for line in hits) > 0


def test_a_prompt_that_it_refuses(engine: v4kit.Engine) -> None:
    with pytest.raises(v4kit.errors.EngineError, match="400") as caught:
        engine.generate("Hello", max_new_tokens=4, temperature=0.0, n=2)
    assert caught.value.status == 400
