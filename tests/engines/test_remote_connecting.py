"""The way to an engine: what can be no address, no key and no setting, and which model is meant."""

import httpx
import numpy as np
import pytest

import v4kit
from tests import zoo
from tests.engines.served import VLLM, SGLang
from tests.engines.serving import BOTH, TEXT, V4, local, own, told
from tests.engines.stand_in import Reply, StandIn
from v4kit.errors import EngineError, InputError, ModelNotFound


class TestConnecting:
    def test_nobody_there(self) -> None:
        with pytest.raises(EngineError, match=r"127\.0\.0\.1:9 can't be reached"):
            v4kit.connect("127.0.0.1:9")

    def test_not_an_engine(self) -> None:
        with (
            StandIn(lambda _: Reply(b"<html>hello</html>")) as server,
            pytest.raises(EngineError, match="no JSON, it begins with '<html>"),
        ):
            v4kit.connect(server.url)

    def test_nothing_of_an_engine(self) -> None:
        with (
            StandIn(lambda _: Reply({"detail": "Not Found"}, status=404)) as server,
            pytest.raises(EngineError, match=r"404: Not Found Is it a vLLM or SGLang server"),
        ):
            v4kit.connect(server.url)

    @pytest.mark.parametrize(
        "url", ["", None, 5, "ftp://host", "http://name:word@host:1", "http://"]
    )
    def test_no_address(self, url) -> None:
        with pytest.raises(InputError, match="address such as") as caught:
            v4kit.connect(url)
        assert "word" not in str(caught.value).replace("password", "")

    def test_unknown_engine(self) -> None:
        with pytest.raises(InputError, match="'auto', vllm, sglang; given was 'ollama'"):
            v4kit.connect("http://localhost:1", engine="ollama")

    def test_model_that_is_not_here(self, serve) -> None:
        with pytest.raises(ModelNotFound, match=r"loaded 'x', .* connect\(…, model=…\)"):
            serve(VLLM, model=None)

    @pytest.mark.parametrize("kind", [VLLM, SGLang])
    @pytest.mark.parametrize("how", ["by its models", "by its paths", "told"])
    def test_which_engine(self, kind, how) -> None:
        served = kind(zoo.random_model(V4))
        served.owner = kind.__name__.lower() if how == "by its models" else "somebody"
        told = {"engine": kind.__name__.lower()} if how == "told" else {}
        with StandIn(served) as server:
            engine = v4kit.connect(server.url, model=zoo.random_model(V4), **told)
        assert engine.meta["engine"].split()[0] == kind.__name__.lower()

    @BOTH
    def test_path_and_slash_are_no_matter(self, serve, kind) -> None:
        _, server = serve(kind)
        for end in ("", "/", "/v1", "/v1/"):
            v4kit.connect(server.url + end, model=zoo.random_model(V4))

    @pytest.mark.parametrize(
        "url",
        [
            "http://host:80a0",
            "http://[::1",
            "host:8000:9",
            "http://host:99999",
            "http://host:0",
            "http://a b",
            "http://h\x00st",
            "http://☃.invalid",
            f"http://{'a' * 70}.x",
            "http://a..b",
            "http://name:word@host:1x",
            "http://host?key=word",
            "http://host/v1#word",
        ],
    )
    def test_what_no_request_can_be_made_to(self, url) -> None:
        with pytest.raises(InputError, match="address such as") as caught:
            v4kit.connect(url, timeout=1)
        assert "word" not in str(caught.value).replace("password", "")

    @pytest.mark.parametrize(
        ("setting", "words"),
        [
            ({"timeout": None}, "timeout is a number of seconds above 0"),
            ({"timeout": "x"}, "timeout is a number"),
            ({"timeout": 0}, "timeout is a number"),
            ({"timeout": -1}, "timeout is a number"),
            ({"timeout": float("nan")}, "timeout is a number"),
            ({"timeout": float("inf")}, "timeout is a number"),
            ({"timeout": True}, "timeout is a number"),
            ({"max_bytes": None}, "max_bytes is a whole number, 1 or more"),
            ({"max_bytes": "1"}, "max_bytes is a whole number"),
            ({"max_bytes": 0}, "max_bytes is a whole number"),
            ({"engine": ["vllm"]}, "engine is 'auto'"),
            ({"engine": None}, "engine is 'auto'"),
            ({"name": 5}, "name is what the server calls its model"),
        ],
    )
    def test_settings_that_are_none(self, setting, words) -> None:
        with pytest.raises(InputError, match=words):
            v4kit.connect("http://127.0.0.1:9", **setting)

    def test_no_connection_in_time(self, serve, monkeypatch) -> None:
        engine, _ = serve(VLLM)

        def late(*_, **__):
            raise httpx.ConnectTimeout("timed out")

        monkeypatch.setattr(httpx.Client, "send", late)
        with pytest.raises(EngineError, match=r"can't be reached: timed out\. Check the address"):
            engine.read(TEXT)

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_moved(self, status) -> None:
        def answer(_):
            return Reply({}, status=status, headers={"Location": "https://elsewhere/v1/models"})

        with (
            StandIn(answer) as server,
            pytest.raises(EngineError, match=f"answered {status}.* points to https://elsewhere/"),
        ):
            v4kit.connect(server.url)

    def test_no_proxy_for_this_machine(self, monkeypatch) -> None:
        """A proxy of the environment would be shown the key, and can't reach this machine."""
        with (
            StandIn(lambda _: Reply({}, status=502)) as proxy,
            StandIn(VLLM(zoo.random_model(V4))) as server,
        ):
            for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, proxy.url)
            for url in (server.url, server.url.replace("127.0.0.1", "localhost")):
                engine = v4kit.connect(url, model=zoo.random_model(V4), api_key="a key")
                assert len(engine.read(TEXT))
            assert not proxy.asked


class TestOneOfSeveralModels:
    @staticmethod
    def serving(*cards):
        """A server of several models, of which one is at hand."""
        served = VLLM(zoo.random_model(V4))
        listed = [{"owned_by": "vllm", "max_model_len": 300} | card for card in cards]
        served.other = {"/v1/models": Reply({"data": listed})}
        return StandIn(served)

    @staticmethod
    def asked(server, **options) -> str:
        """The model that is asked."""
        given = {"model": zoo.random_model(V4)} | options
        v4kit.connect(server.url, **given).read(TEXT)
        return server.asked[-1].body["model"]

    def test_named_by_the_model_that_is_given(self, tmp_path) -> None:
        folder = tmp_path / "mine"
        zoo.fresh(V4).save_pretrained(folder)
        zoo.tokenizer().save_pretrained(folder)
        with self.serving({"id": "a", "root": "other"}, {"id": "b", "root": "/m/mine"}) as server:
            assert self.asked(server, model=folder) == "b"
            assert self.asked(server, model=str(folder)) == "b"
        with self.serving({"id": "a"}, {"id": "org/mine"}) as server:
            assert self.asked(server, model=folder) == "org/mine"
        own = zoo.random_model(V4).meta["model"]
        with self.serving({"id": "a"}, {"id": own}) as server:
            assert self.asked(server) == own

    def test_named_outright(self) -> None:
        with self.serving({"id": "a"}, {"id": "b"}) as server:
            assert self.asked(server, name="b") == "b"
            assert self.asked(server, name="a") == "a"
            with pytest.raises(EngineError, match="serves 'a', 'b'; wanted is 'c'"):
                self.asked(server, name="c")
        with self.serving({"id": "a"}) as server, pytest.raises(EngineError, match="wanted is 'c'"):
            self.asked(server, name="c")

    def test_not_named(self) -> None:
        with (
            self.serving({"id": "a"}, {"id": "b"}) as server,
            pytest.raises(EngineError, match=r"serves 'a', 'b'; .* connect\(…, name=…\)"),
        ):
            self.asked(server)

    def test_several_names_of_one(self) -> None:
        with self.serving({"id": "a", "root": "x"}, {"id": "b", "root": "x"}) as server:
            assert self.asked(server) == "a"
        with self.serving({"id": "lora", "root": "y", "parent": "a"}, {"id": "a"}) as server:
            assert self.asked(server) == "a"
            assert self.asked(server, name="lora") == "lora"


class TestCallsOfAModel:
    """What a `Model` is called with, an engine is called with, too."""

    @BOTH
    def test_numbers_of_numpy(self, serve, kind) -> None:
        engine, _ = serve(kind)
        trace = engine.generate(
            TEXT,
            max_new_tokens=np.int64(4),
            temperature=np.float32(0.0),
            top_p=np.float64(1.0),
            n=np.int64(1),
            start=np.int64(0),
        )
        assert trace.tokens["id"].tolist() == local(4).tokens["id"].tolist()
        drawn = engine.generate(
            TEXT, max_new_tokens=2, temperature=np.float32(1), seed=np.int64(5), n=np.int32(2)
        )
        assert drawn.meta["seed"] == 5
        assert len(engine.read(TEXT, start=np.int16(2)))
        stream = engine.stream(TEXT, max_new_tokens=np.int64(2)).finish()
        stream.extend(np.int64(2))
        assert stream.finish().trace.tokens["id"].tolist() == local(4).tokens["id"].tolist()

    @BOTH
    @pytest.mark.parametrize("chunk", [None, 1, 256])
    def test_chunks_of_a_prompt(self, serve, kind, chunk) -> None:
        engine, _ = serve(kind)
        trace = engine.generate(TEXT, max_new_tokens=2, prefill_chunk=chunk)
        assert trace.tokens["id"].tolist() == local(2).tokens["id"].tolist()
        read = engine.read(TEXT, prefill_chunk=chunk)
        assert (told(read) == own(V4, read)).all()
        assert len(engine.stream(TEXT, prefill_chunk=chunk, max_new_tokens=1).finish().trace)

    @BOTH
    def test_chunks_that_are_none(self, serve, kind) -> None:
        engine, _ = serve(kind)
        for call in (engine.generate, engine.read, engine.stream):
            with pytest.raises(InputError, match="prefill_chunk is a whole number, 1 or more"):
                call(TEXT, prefill_chunk=0)

    @BOTH
    def test_half_a_character_as_stop_string(self, serve, kind) -> None:
        engine, _ = serve(kind)
        with pytest.raises(InputError, match="no valid Unicode"):
            engine.generate(TEXT, stop="\ud83d")

    def test_every_continuation_has_a_seed_of_its_own(self, serve) -> None:
        engine, server = serve(SGLang)
        engine.generate(TEXT, max_new_tokens=2, temperature=1.0, seed=7, n=3)
        seeds = [one["sampling_seed"] for one in server.asked[-1].body["sampling_params"]]
        assert seeds == [7, 8, 9]
        engine.generate(TEXT, max_new_tokens=2, temperature=1.0, seed=2**63 - 1)
        assert server.asked[-1].body["sampling_params"]["sampling_seed"] == 2**63 - 1
