"""Chats of other families: their tokenizer's own template, or a refusal, but never V4's format."""

import copy

import pytest

import v4kit
from tests import zoo
from v4kit.engines.text import encode_prompt
from v4kit.errors import InputError
from v4kit.models.chat import MAX_CONTEXT, can_chat, edition_of, encode, encode_by_template, roles

TEMPLATE = """\
{{ bos_token }}{% for m in messages %}{% if m.role not in ('system', 'user', 'assistant') %}\
{{ raise_exception('no role ' + m.role) }}{% endif %}[{{ m.role }}]{{ m.content }}\
{% endfor %}{% if tools %}[{{ tools | length }} tools]{% endif %}\
{% if add_generation_prompt %}[assistant]{% endif %}"""
USER = [{"role": "user", "content": "Hi"}]
BOS = zoo.SPECIAL[0]


@pytest.fixture(scope="module")
def tokenizer():
    """One that has a template; the zoo's has none."""
    made = copy.deepcopy(zoo.tokenizer())
    made.chat_template = TEMPLATE
    return made


@pytest.mark.parametrize("family", zoo.OTHERS)
def test_every_family_has_its_own_format(family, tokenizer) -> None:
    model = v4kit.wrap(zoo.random_model(family).hf, tokenizer)
    assert model.edition is None
    trace = model.generate([{"role": "system", "content": "S"}, *USER], max_new_tokens=2)
    prompt = trace.tokens[trace.tokens["phase"] == "prompt"]
    assert "".join(prompt["text"]) == f"{BOS}[system]S[user]Hi[assistant]"
    assert set(trace.tokens["role"]) == {"text"}, "whose turn it is, its tokens do not tell"


def test_v4_keeps_its_own(tokenizer) -> None:
    model = v4kit.wrap(zoo.random_model("small").hf, tokenizer)
    trace = model.generate(USER, max_new_tokens=2)
    prompt = trace.tokens[trace.tokens["phase"] == "prompt"]
    assert "".join(prompt["text"]) == encode(USER, edition="preview")


def test_what_a_template_is_given(tokenizer) -> None:
    parts = [{"role": "user", "content": ["a", {"type": "text", "text": "b"}]}]
    assert tokenizer.decode(encode_by_template(parts, tokenizer)) == f"{BOS}[user]a\n\nb[assistant]"
    told = [{"role": "system", "content": "S", "tools": [{"name": "f"}]}, *USER]
    said = tokenizer.decode(encode_by_template(told, tokenizer))
    assert said == f"{BOS}[system]S[user]Hi[1 tools][assistant]"


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "judge", "content": "x"}], "does not take these messages: no role judge"),
        ([{"content": "x"}], "Message 0 has the role None"),
        ([{"role": "user"}], "Message 0 has no text"),
        ([{"role": "user", "content": [{"type": "image", "text": "x"}]}], "has a image in 'conte"),
        ([5], "Message 0 is a int"),
    ],
)
def test_what_a_template_does_not_take(messages, words, tokenizer) -> None:
    with pytest.raises(InputError, match=words):
        encode_by_template(messages, tokenizer)


def test_without_a_template_a_chat_is_refused() -> None:
    model = zoo.random_model("mixtral")
    with pytest.raises(InputError, match=r"has no chat template, .* Give the prompt as a text"):
        model.generate(USER)
    assert model.generate("Hi", max_new_tokens=1).completion is not None


def test_efforts_are_v4s(tokenizer) -> None:
    model = v4kit.wrap(zoo.random_model("mixtral").hf, tokenizer)
    with pytest.raises(InputError, match="'high' is a reasoning effort of DeepSeek-V4, and this"):
        model.generate(USER, thinking="high")


def test_where_chats_are_offered(tokenizer) -> None:
    assert can_chat(zoo.tokenizer(), "preview")
    assert not can_chat(zoo.tokenizer(), None), "V4's tokens alone are no template of another"
    assert can_chat(tokenizer, None)
    assert edition_of(zoo.random_model("olmoe").hf.config) is None
    assert edition_of(zoo.random_model("small").hf.config) == "preview"


def test_tools_of_deepseek_v3_are_not_told_as_turns() -> None:
    turns = [BOS, "<\uff5cUser\uff5c>", "q", "<\uff5cAssistant\uff5c>", "a"]
    assert roles(turns, chat=True) == ["system", "user", "user", "answer", "answer"]
    called = [*turns, "<\uff5ctool\u2581outputs\u2581begin\uff5c>", "22 degrees"]
    assert roles(called, chat=True) == ["text"] * 7


class TestTheGreatestEffort:
    def test_a_short_context_is_told_of(self) -> None:
        words = f'"max" is meant for a context of {MAX_CONTEXT:,} tokens; this model has 16,384'
        with pytest.warns(UserWarning, match=words):
            zoo.tiny().stream(USER, thinking="max")

    @pytest.mark.parametrize(
        ("thinking", "context"), [("high", 400), (None, 400), ("max", 393_216), ("max", None)]
    )
    def test_else_there_is_nothing_to_tell(self, thinking, context) -> None:
        ids = encode_prompt(
            USER,
            zoo.tokenizer(),
            thinking=thinking,
            edition="0731",
            vocabulary=320,
            context=context,
        )
        assert ids[0] == 0
