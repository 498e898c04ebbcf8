"""Prompts become ids, and ids become text again."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

import v4kit
from tests import zoo
from v4kit.models.chat import ASSISTANT, END_THINK, EOS, THINK, USER, encode
from v4kit.recording.text import TokenText, text_columns

# Control characters, combining marks, CJK, emoji with joiners, right-to-left, and U+FFFD itself.
PARTS = ["e\u0301", "👩\u200d🚀", "🇫🇷", "春眠", "שלום", " ", "\n", "\x00", "\ufffd", "ﬁ", "👍🏽"]
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40) | st.lists(
    st.sampled_from(PARTS), max_size=12
).map("".join)


@pytest.fixture(params=["test", "tiny"])
def tokenizer(request):
    return zoo.tokenizer() if request.param == "test" else zoo.tiny().tokenizer


class TestTokenText:
    @settings(max_examples=150, deadline=None)
    @given(text=TEXTS)
    @pytest.mark.parametrize("name", ["test", "tiny"])
    def test_pieces_make_the_text(self, name, text) -> None:
        tokenizer = zoo.tokenizer() if name == "test" else zoo.tiny().tokenizer
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        stream = TokenText(tokenizer)
        pieces = [stream.step(token) for token in ids]
        assert "".join(pieces) == tokenizer.decode(ids) == text

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.integers(7, 319), max_size=40))
    def test_any_ids(self, ids) -> None:
        """Bytes that are no text show as replacement characters, as a whole decoding does.

        A character whose last bytes have not come is not shown yet.
        """
        stream = TokenText(zoo.tokenizer())
        pieces = "".join(stream.step(token) for token in ids)
        assert zoo.tokenizer().decode(ids) in {pieces, pieces + "\ufffd"}
        assert pieces + stream.step(50) == zoo.tokenizer().decode([*ids, 50])

    def test_id_that_the_tokenizer_lacks(self) -> None:
        assert TokenText(zoo.tokenizer()).step(5000) == ""

    def test_tokenizer_that_is_not_byte_level(self) -> None:
        """As Mixtral's: words begin with a low line, rare characters are written as bytes."""
        names = ["<unk>", "▁Hi", "!", "▁you", *(f"<0x{byte:02X}>" for byte in range(256))]
        backend = Tokenizer(models.BPE(dict(zip(names, range(260), strict=True)), []))
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        stream = TokenText(PreTrainedTokenizerFast(tokenizer_object=backend))
        smile = [4 + byte for byte in "🙂".encode()]
        pieces = [stream.step(token) for token in [1, 3, *smile, 2]]
        assert pieces == [" Hi", " you", "", "", "", "🙂", "!"]

    def test_character_goes_to_its_last_token(self) -> None:
        ids = zoo.tokenizer()("a𐍈b\ufffd", add_special_tokens=False)["input_ids"]
        stream = TokenText(zoo.tokenizer())
        pieces = [stream.step(token) for token in ids]
        assert [piece for piece in pieces if piece] == ["a", "𐍈", "b", "\ufffd"]
        assert pieces[-1] == "\ufffd"
        assert pieces.count("") >= 4

    def test_special_tokens_are_text(self, tokenizer) -> None:
        text = zoo.SPECIAL[0] + "Hi" + zoo.SPECIAL[1]
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        columns = text_columns(ids, None, tokenizer)
        assert "".join(columns["text"]) == text
        assert [ids[i] for i, special in enumerate(columns["special"]) if special] == [0, 1]


class TestTrace:
    @pytest.mark.parametrize("name", ["small", "tiny"])
    def test_text(self, name) -> None:
        model = zoo.model(name)
        trace = model.generate(zoo.TEXT, max_new_tokens=4, temperature=1, seed=2)
        ids = trace.tokens["id"].tolist()
        assert trace.text.startswith(zoo.SPECIAL[0] + zoo.TEXT)
        assert model.tokenizer.decode(ids).startswith(trace.text)
        assert trace.text == zoo.SPECIAL[0] + zoo.TEXT + "".join(
            trace.tokens["text"][trace.tokens["phase"] == "generated"]
        )
        assert trace.tokens["position"].tolist() == list(range(len(ids)))

    def test_bos_comes_once(self) -> None:
        model = zoo.model("small")
        plain = model.read("Hi").tokens["id"].tolist()
        assert plain == model.read(zoo.SPECIAL[0] + "Hi").tokens["id"].tolist()
        assert plain[0] == 0
        assert plain.count(0) == 1
        assert model.read(plain[1:]).tokens["id"].tolist() == plain[1:]

    @pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, np.int32])
    def test_ids_of_any_kind(self, kind) -> None:
        ids = [0, 40, 41, 42]
        given_ids = [np.int32(i) for i in ids] if kind is np.int32 else kind(ids)
        assert zoo.model("small").read(given_ids).tokens["id"].tolist() == ids


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?", "reasoning": "greet"},
    {"role": "user", "content": "Bye"},
]


class TestRoles:
    def test_chat(self) -> None:
        model = zoo.model("small")
        trace = model.generate(MESSAGES, max_new_tokens=3, temperature=1, seed=1)
        assert trace.text.startswith(encode(MESSAGES, edition="preview"))
        assert trace.meta["thinking"] is None
        parts = trace.tokens.groupby("role", sort=False)["text"].agg("".join).to_dict()
        assert list(parts) == ["system", "user", "answer"]
        assert parts["system"] == zoo.SPECIAL[0] + "Be brief."
        assert parts["user"] == USER + "Hi" + USER + "Bye"
        assert parts["answer"].startswith(
            ASSISTANT + END_THINK + "Yes?" + EOS + ASSISTANT + END_THINK
        )
        assert (trace.tokens["role"][trace.tokens["phase"] == "generated"] == "answer").all()

    def test_thinking(self) -> None:
        model = zoo.model("small")
        trace = model.generate(MESSAGES[1:2], thinking="high", max_new_tokens=3)
        assert trace.meta["thinking"] == "high"
        assert trace.text.startswith(zoo.SPECIAL[0] + USER + "Hi" + ASSISTANT + THINK)
        roles = trace.tokens["role"].tolist()
        assert (
            roles[:5] == ["system", "user", "user", "answer", "reasoning"] or roles[0] == "system"
        )
        assert (trace.tokens["role"][trace.tokens["phase"] == "generated"] == "reasoning").all()

    def test_end_of_thought_closes_the_reasoning(self) -> None:
        text = USER + "Q" + ASSISTANT + THINK + "why" + END_THINK + "A" + EOS
        tokens = zoo.model("small").read(text).tokens
        parts = list(zip(tokens["role"], tokens["text"], strict=True))
        assert ("reasoning", THINK) in parts
        assert ("reasoning", END_THINK) in parts
        assert ("answer", "A") in parts
        assert ("answer", EOS) in parts
        assert parts[0] == ("system", zoo.SPECIAL[0])

    def test_plain_text(self) -> None:
        assert (zoo.model("small").read("Just text").tokens["role"] == "text").all()

    def test_later_edition(self) -> None:
        """Configs with keys of DSpark are of the later generation."""
        hf = zoo.fresh("small")
        assert v4kit.wrap(hf, zoo.tokenizer()).edition == "preview"
        hf.config.dspark_block_size = 5
        assert v4kit.wrap(hf, zoo.tokenizer()).edition == "0731"
