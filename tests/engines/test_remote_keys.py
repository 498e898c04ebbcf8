"""A key is sent, and shown nowhere: whatever is wrong with it, and whoever says it back."""

import json
import pickle
import traceback

import pytest

import v4kit
from tests import zoo
from tests.engines.served import VLLM, SGLang
from tests.engines.serving import BOTH, TEXT, V4
from tests.engines.stand_in import Reply, StandIn
from v4kit.errors import EngineError, InputError

SECRET = "sk-very-secret"


def assert_silent(error: BaseException | None) -> None:
    """Assert that neither an error nor what led to it holds the key, in words or in data."""
    assert "very-secret" not in "".join(traceback.format_exception(error))
    while error is not None:
        assert "very-secret" not in repr(error) + repr(vars(error)) + repr(error.args)
        assert "very-secret" not in str(getattr(error, "doc", ""))
        error = error.__cause__ or error.__context__


class TestKeys:
    def test_from_argument_or_environment(self, serve, monkeypatch) -> None:
        _, server = serve(VLLM)
        monkeypatch.setenv("V4KIT_API_KEY", "from-outside")
        v4kit.connect(server.url, model=zoo.random_model(V4))
        assert server.asked[-1].key == "Bearer from-outside"
        v4kit.connect(server.url, model=zoo.random_model(V4), api_key="given")
        assert server.asked[-1].key == "Bearer given"
        monkeypatch.delenv("V4KIT_API_KEY")
        v4kit.connect(server.url, model=zoo.random_model(V4))
        assert server.asked[-1].key is None

    def test_it_is_kept_nowhere(self, serve, tmp_path, caplog) -> None:
        caplog.set_level("DEBUG")
        _, server = serve(VLLM)
        engine = v4kit.connect(server.url, model=zoo.random_model(V4), api_key=SECRET)
        trace = engine.generate(TEXT, max_new_tokens=2)
        seen = [repr(engine), str(engine.check()), json.dumps(trace.meta), repr(vars(engine))]
        file = trace.save(tmp_path / "remote.v4trace")
        assert SECRET not in " ".join(seen) + caplog.text
        assert SECRET.encode() not in file.read_bytes()
        assert SECRET.encode() not in pickle.dumps(trace.meta)

    def test_a_server_that_says_it_back(self) -> None:
        def answer(asked):
            return Reply({"error": {"message": f"unknown key {asked.key}"}}, status=401)

        with (
            StandIn(answer) as server,
            pytest.raises(EngineError, match="401: unknown key Bearer … Give a key") as caught,
        ):
            v4kit.connect(server.url, api_key=SECRET)
        assert "sk-very" not in str(caught.value)


class TestKeysThatCantBeSent:
    @pytest.mark.parametrize("key", [f"{SECRET}\n", f" \t{SECRET}\r\n"])
    def test_space_around_it_is_no_part_of_it(self, serve, key) -> None:
        _, server = serve(VLLM, api_key=key)
        assert {asked.key for asked in server.asked} == {f"Bearer {SECRET}"}

    def test_space_and_nothing_else_is_none(self, serve) -> None:
        _, server = serve(VLLM, api_key=" \n")
        assert server.asked[-1].key is None

    @pytest.mark.parametrize("where", ["argument", "environment"])
    @pytest.mark.parametrize("odd", ["é", "\n", "\0", "ключ", "\udcff"])
    def test_what_no_header_holds(self, odd, where, monkeypatch) -> None:
        key = f"{SECRET}{odd}x"
        if where == "environment":
            monkeypatch.setattr("os.environ", {"V4KIT_API_KEY": key})
        given = {"api_key": key} if where == "argument" else {}
        with (
            StandIn(VLLM(zoo.random_model(V4))) as server,
            pytest.raises(InputError, match="printable ASCII") as caught,
        ):
            v4kit.connect(server.url, **given)
        assert not server.asked
        assert_silent(caught.value)

    @pytest.mark.parametrize("key", [5, SECRET.encode(), [SECRET]])
    def test_what_is_no_text(self, key) -> None:
        with pytest.raises(InputError, match="api_key is text; given was") as caught:
            v4kit.connect("http://127.0.0.1:9", api_key=key)
        assert_silent(caught.value)


ECHOES = {
    "a page": lambda key: Reply(f"<b>{key}</b>".encode()),
    "a page that begins long before it": lambda key: Reply(f"{'x' * 50}{key}".encode()),
    "an error in an answer": lambda key: Reply({"error": {"message": f"rejected {key}"}}),
    "an error of old vLLM": lambda key: Reply({"object": "error", "message": f"rejected {key}"}),
    "no object": lambda key: Reply([key]),
    "a refusal": lambda key: Reply({"detail": f"rejected {key}"}, status=401),
    "a refusal in data": lambda key: Reply({"detail": {"given": [key]}}, status=422),
    "a refusal with escapes": lambda key: Reply(
        json.dumps({"detail": key}).replace("-", "\\u002d").encode(), status=401
    ),
    "a refusal that begins long before it": lambda key: Reply(
        f"{'x' * 390} {key}".encode(), status=400
    ),
    "another place": lambda key: Reply(
        {}, status=307, headers={"Location": f"http://elsewhere/?key={key}"}
    ),
}


class TestServersThatSayItBack:
    @pytest.mark.parametrize("echo", ECHOES)
    def test_while_connecting(self, echo) -> None:
        def answer(asked):
            return ECHOES[echo](asked.key or "none")

        with StandIn(answer) as server, pytest.raises(EngineError) as caught:
            v4kit.connect(server.url, api_key=SECRET)
        assert_silent(caught.value)

    @BOTH
    @pytest.mark.parametrize("echo", ECHOES)
    def test_later(self, serve, kind, echo) -> None:
        engine, server = serve(kind, api_key=SECRET)
        server.served.first = [ECHOES[echo](f"Bearer {SECRET}")]
        with pytest.raises(EngineError) as caught:
            engine.read(TEXT)
        assert_silent(caught.value)

    @BOTH
    def test_in_a_stream(self, serve, kind) -> None:
        engine, _ = serve(
            kind,
            api_key=SECRET,
            events=lambda events: [*events[:1], {"error": {"message": f"rejected {SECRET}"}}],
        )
        with pytest.raises(EngineError, match="rejected …") as caught:
            engine.stream(TEXT, max_new_tokens=3).finish()
        assert_silent(caught.value)

    def test_as_the_reason_for_breaking_off(self, serve) -> None:
        def spoil(answer):
            reason = {"type": "abort", "message": f"no more for {SECRET}"}
            answer["meta_info"]["finish_reason"] = reason
            return answer

        engine, _ = serve(SGLang, api_key=SECRET, spoil=spoil)
        with pytest.raises(EngineError, match="broke off: no more for …") as caught:
            engine.generate(TEXT, max_new_tokens=3)
        assert_silent(caught.value)

    def test_as_a_name(self) -> None:
        served = VLLM(zoo.random_model(V4))
        served.card = lambda: {"id": f"of {SECRET}", "owned_by": "vllm", "root": SECRET}
        served.other = {"/version": Reply({"version": f"0.30 {SECRET}"})}
        with StandIn(served) as server:
            engine = v4kit.connect(server.url, model=zoo.random_model(V4), api_key=SECRET)
            trace = engine.generate(TEXT, max_new_tokens=2)
            # The server is asked by its own names.
            assert server.asked[-1].body["model"] == f"of {SECRET}"
            seen = [repr(engine), repr(engine.check()), json.dumps(trace.meta), repr(trace)]
            assert "very-secret" not in " ".join(seen)
            assert trace.meta["model"] == "of …"
            with pytest.raises(v4kit.errors.ModelNotFound) as caught:
                v4kit.connect(server.url, api_key=SECRET)
        assert_silent(caught.value)

    def test_short_keys_spoil_no_data(self, serve) -> None:
        """Some servers want a key of one letter, which is in every array, and in every text."""
        engine, _ = serve(VLLM, api_key="A")
        plain, _ = serve(VLLM)
        one, other = (e.generate(TEXT, max_new_tokens=4) for e in (engine, plain))
        assert one.tokens["id"].tolist() == other.tokens["id"].tolist()
        assert (one.routing["experts"] == other.routing["experts"]).all()
