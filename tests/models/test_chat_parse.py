"""What a model said, whole, cut anywhere, and out of form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v4kit.errors import InputError
from v4kit.models.chat import EOS, Reply, ToolCall, encode, parse

D = "\uff5cDSML\uff5c"
CALL = f"""\
<{D}invoke name="f">
<{D}parameter name="city" string="true">Paris, \\n <b></{D}parameter>
<{D}parameter name="days" string="false">[3, null]</{D}parameter>
</{D}invoke>"""
BLOCK = f'<{D}tool_calls>\n{CALL}\n<{D}invoke name="g">\n\n</{D}invoke>\n</{D}tool_calls>'
CALLS = (ToolCall("f", {"city": "Paris, \\n <b>", "days": [3, None]}), ToolCall("g", {}))

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<\n"), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
NAMES = st.text("abc_", min_size=1, max_size=5)
MADE = st.lists(st.tuples(NAMES, st.dictionaries(NAMES, VALUES, max_size=3)), max_size=3)


class TestWhole:
    @pytest.mark.parametrize(
        ("text", "thinking", "expected"),
        [
            (f"Hi.{EOS}", None, Reply(None, "Hi.", complete=True)),
            (f"so</think>Hi.{EOS}", "low", Reply("so", "Hi.", complete=True)),
            (f"</think>{EOS}", "max", Reply("", "", complete=True)),
            (f"Well.\n\n{BLOCK}{EOS}", None, Reply(None, "Well.", CALLS, complete=True)),
            (f"so</think>\n\n{BLOCK}{EOS}", "low", Reply("so", "", CALLS, complete=True)),
            (f"{BLOCK}{EOS}", None, Reply(None, "", CALLS, complete=True)),
            (f"a </think> b{EOS}", None, Reply(None, "a </think> b", complete=True)),
        ],
    )
    def test_reply(self, text, thinking, expected) -> None:
        assert parse(text, thinking) == expected


class TestCut:
    @pytest.mark.parametrize(
        ("text", "thinking", "expected"),
        [
            ("", None, Reply(None, "")),
            ("", "low", Reply("", "")),
            ("thin", "low", Reply("thin", "")),
            ("thin</thi", "low", Reply("thin", "", pending="</thi")),
            (f"thin{EOS}", "low", Reply("thin", "", pending=EOS)),
            ("so</think>Hi", "low", Reply("so", "Hi")),
            (f"Hi{EOS[:5]}", None, Reply(None, "Hi", pending=EOS[:5])),
            ("Hi\n\n", None, Reply(None, "Hi", pending="\n\n")),
            ("Hi\n\nyou", None, Reply(None, "Hi\n\nyou")),
            (f"\n\n{BLOCK[:9]}", None, Reply(None, "", pending=f"\n\n{BLOCK[:9]}")),
            (f"{BLOCK[:60]}", None, Reply(None, "", pending=BLOCK[18:60])),
            (f"{BLOCK}", None, Reply(None, "", CALLS)),
        ],
    )
    def test_reply(self, text, thinking, expected) -> None:
        assert parse(text, thinking) == expected

    def test_a_call_counts_when_it_has_ended(self) -> None:
        half = f'<{D}tool_calls>\n{CALL}\n<{D}invoke name="g">\n<{D}param'
        found = parse(half)
        assert found.tool_calls == CALLS[:1]
        assert found.pending == f'\n<{D}invoke name="g">\n<{D}param'

    @pytest.mark.parametrize("thinking", [None, "high"])
    def test_while_it_grows_nothing_is_taken_back(self, thinking) -> None:
        text = f"so \n\n <</think>Well <{D}.\n\n{BLOCK}{EOS}"
        before = parse("", thinking)
        for end in range(len(text)):
            found = parse(text[:end], thinking)
            assert not found.complete
            assert found.answer.startswith(before.answer)
            assert (found.reasoning or "").startswith(before.reasoning or "")
            assert found.tool_calls[: len(before.tool_calls)] == before.tool_calls
            before = found
        assert parse(text, thinking).complete


class TestOutOfForm:
    @pytest.mark.parametrize(
        ("old", "new", "calls"),
        [
            ("[3, null]", "[3, nil", 0),
            ('name="days"', 'name="city"', 0),
            ('string="false"', "", 0),
            ('<{D}invoke name="g">', "<{D}invoke>", 1),
            (f"{EOS}", f" and so on{EOS}", 2),
            (f"{EOS}", f"{EOS}more", 2),
        ],
    )
    def test_what_cannot_be_read_stays_as_it_is(self, old, new, calls) -> None:
        whole = f"Well.\n\n{BLOCK}{EOS}"
        broken = whole.replace(old.replace("{D}", D), new.replace("{D}", D))
        assert broken != whole
        found = parse(broken)
        assert (found.answer, found.tool_calls, found.complete) == ("Well.", CALLS[:calls], False)
        assert found.pending
        assert broken.endswith(found.pending)

    def test_a_value_deeper_than_python_counts(self) -> None:
        deep = BLOCK.replace("[3, null]", "[" * 100_000)
        found = parse(f"Well.\n\n{deep}{EOS}")
        assert (found.answer, found.tool_calls, found.complete) == ("Well.", (), False)
        assert found.pending.startswith(f'\n<{D}invoke name="f">')

    @pytest.mark.parametrize("thinking", [True, False, "", "huge", 0, ["low"]])
    def test_what_is_no_effort(self, thinking) -> None:
        with pytest.raises(InputError, match=r"effort\. There are 'high', 'low', 'max'"):
            parse("so</think>Hi", thinking)

    @pytest.mark.parametrize("completion", [None, 5, b"x", ["x"]])
    def test_what_is_no_completion(self, completion) -> None:
        with pytest.raises(InputError, match="A completion is a text; given was a "):
            parse(completion)

    @given(text=st.text(f'<>/{D} \n"=thinkvoeparmstring' + EOS, max_size=80))
    def test_any_text_can_be_read(self, text) -> None:
        for thinking in (None, "low"):
            found = parse(text, thinking)
            assert not found.complete or EOS in text


@given(answer=TEXT, reasoning=TEXT, made=MADE)
def test_what_was_encoded_is_read_back(answer, reasoning, made) -> None:
    calls = [{"function": {"name": name, "arguments": given}} for name, given in made]
    message = {
        "role": "assistant", "content": answer, "reasoning": reasoning, "tool_calls": calls,
    }  # fmt: skip
    tool = {"name": "f"}
    prompt = encode([{"role": "user", "content": "x"}, message, {"role": "user", "content": "y"}],
                    "low", tools=[tool])  # fmt: skip
    begin = prompt.index("<\uff5cAssistant\uff5c><think>") + len("<\uff5cAssistant\uff5c><think>")
    completion = prompt[begin : prompt.index(EOS, begin) + len(EOS)]
    expected = tuple(ToolCall(name, given) for name, given in made)
    assert parse(completion, "low") == Reply(reasoning, answer, expected, complete=True)
