"""The prompt format, byte for byte against strings written by hand."""

import pytest

from v4kit.errors import InputError
from v4kit.models.chat import EFFORTS, Roles, encode, roles

BOS = "<\uff5cbegin\u2581of\u2581sentence\uff5c>"
EOS = "<\uff5cend\u2581of\u2581sentence\uff5c>"
U = "<\uff5cUser\uff5c>"
A = "<\uff5cAssistant\uff5c>"

ABSOLUTE = """\
Reasoning Effort: Absolute maximum with no shortcuts permitted.
You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the\
 root cause, rigorously stress-testing your logic against all potential paths, edge cases, and\
 adversarial scenarios.
Explicitly write out your entire deliberation process, documenting every intermediate step,\
 considered alternative, and rejected hypothesis to ensure absolutely no assumption is left\
 unchecked.

"""
BEYOND = """\
Reasoning Effort: Beyond maximum \u2014 exhaustive, relentless, and uncompromising.
You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively\
 decompose the problem into its most fundamental components, trace every causal chain to its root,\
 and resolve the underlying cause rather than any surface symptom.
Do not stop reasoning until you have independently verified the solution from multiple angles and\
 are certain that no assumption remains unchecked and no error remains undiscovered.

"""


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def assistant(text: str, **more: str) -> dict[str, str]:
    return {"role": "assistant", "content": text, **more}


class TestChatMode:
    @pytest.mark.parametrize(
        ("messages", "expected"),
        [
            ([user("Hi")], f"{BOS}{U}Hi{A}</think>"),
            ([system("Be kind."), user("Hi")], f"{BOS}Be kind.{U}Hi{A}</think>"),
            (
                [system("S"), user("1"), assistant("2"), user("3")],
                f"{BOS}S{U}1{A}</think>2{EOS}{U}3{A}</think>",
            ),
            (
                [user("1"), assistant("2", reasoning="why"), user("3")],
                f"{BOS}{U}1{A}</think>2{EOS}{U}3{A}</think>",
            ),
            ([user(" two\n\nlines ")], f"{BOS}{U} two\n\nlines {A}</think>"),
            ([user("")], f"{BOS}{U}{A}</think>"),
            ([user("a"), user("b")], f"{BOS}{U}a{U}b{A}</think>"),
        ],
        ids=range(7),
    )
    @pytest.mark.parametrize("edition", ["preview", "0731"])
    def test_prompt(self, messages, expected, edition) -> None:
        assert encode(messages, edition=edition) == expected


class TestThinkingMode:
    @pytest.mark.parametrize(
        ("edition", "effort", "prefix"),
        [
            ("preview", "high", ""),
            ("preview", "max", ABSOLUTE),
            ("0731", "low", ""),
            ("0731", "high", ABSOLUTE),
            ("0731", "max", BEYOND),
        ],
    )
    def test_effort(self, edition, effort, prefix) -> None:
        """It stands before the system text, once."""
        assert encode([user("Hi")], effort, edition=edition) == f"{BOS}{prefix}{U}Hi{A}<think>"
        messages = [system("S"), user("1"), assistant("2", reasoning="why"), user("3")]
        expected = f"{BOS}{prefix}S{U}1{A}</think>2{EOS}{U}3{A}<think>"
        assert encode(messages, effort, edition=edition) == expected

    def test_all_efforts_are_tested(self) -> None:
        assert {name: list(efforts) for name, efforts in EFFORTS.items()} == {
            "preview": ["high", "max"],
            "0731": ["low", "high", "max"],
        }


class TestRefusals:
    @pytest.mark.parametrize(
        ("messages", "options", "message"),
        [
            ([user("Hi")], {"thinking": "low", "edition": "preview"}, "It has 'high', 'max'"),
            ([user("Hi")], {"thinking": "huge"}, "It has 'low', 'high', 'max'; None is chat mode"),
            ([user("Hi")], {"thinking": ""}, "no reasoning effort"),
            ([user("Hi")], {"edition": "2031"}, "edition is 'preview' or '0731'; given was '2031'"),
            ([], {}, "must end with a user message"),
            ([system("S")], {}, "must end with a user message"),
            ([user("1"), assistant("2")], {}, "must end with a user message"),
            ([user("1"), system("2")], {}, "must end with a user message"),
            ([{"role": "tool", "content": "x"}], {}, "Message 0 has the role 'tool'"),
            ([{"content": "x"}], {}, "has the role None"),
            ([{"role": "user", "content": ["x"]}], {}, r"Message 0 has no text in 'content'"),
            ([user("1"), {"role": "user"}], {}, "Message 1 has no text"),
        ],
        ids=range(12),
    )
    def test_message(self, messages, options, message) -> None:
        with pytest.raises(InputError, match=message):
            encode(messages, **options)


class TestRoles:
    def test_turns(self) -> None:
        tokens = [
            BOS, "sys", U, "q", A, "</think>", "a", EOS, U, "q", A, "<think>", "r", "</think>", "a",
            EOS,
        ]  # fmt: skip
        expected = [
            "system", "system", "user", "user", "answer", "answer", "answer", "answer", "user",
            "user", "answer", "reasoning", "reasoning", "reasoning", "answer", "answer",
        ]  # fmt: skip
        assert roles(tokens, chat=True) == expected

    def test_as_tokens_arrive(self) -> None:
        state = Roles()
        assert [state.step(token) for token in (BOS, "a", A, "b")] == [
            "text", "text", "answer", "answer",
        ]  # fmt: skip

    def test_text(self) -> None:
        assert roles([BOS, "a", "b"], chat=False) == ["text"] * 3
