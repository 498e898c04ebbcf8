"""The prompt format, byte for byte against strings written by hand."""

from typing import Any

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


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def calling(*calls: Any) -> dict[str, Any]:
    """An assistant's message with calls: name, arguments, name, arguments …"""
    pairs = zip(calls[::2], calls[1::2], strict=True)
    made = [
        {"id": f"c{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(pairs)
    ]
    return {"role": "assistant", "content": None, "tool_calls": made}


def result(call: str, text: str) -> dict[str, str]:
    return {"role": "tool", "tool_call_id": call, "content": text}


CALLING = calling("f", '{"x": "a", "n": 3}', "g", {"deep": {"é": [1, None]}, "yes": True})
CALLED = """

<\uff5cDSML\uff5ctool_calls>
<\uff5cDSML\uff5cinvoke name="f">
<\uff5cDSML\uff5cparameter name="x" string="true">a</\uff5cDSML\uff5cparameter>
<\uff5cDSML\uff5cparameter name="n" string="false">3</\uff5cDSML\uff5cparameter>
</\uff5cDSML\uff5cinvoke>
<\uff5cDSML\uff5cinvoke name="g">
<\uff5cDSML\uff5cparameter name="deep" string="false">{"é": [1, null]}</\uff5cDSML\uff5cparameter>
<\uff5cDSML\uff5cparameter name="yes" string="false">true</\uff5cDSML\uff5cparameter>
</\uff5cDSML\uff5cinvoke>
</\uff5cDSML\uff5ctool_calls>"""
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"é": {}}}}
TOLD = """

## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by\
 writing a "<\uff5cDSML\uff5ctool_calls>" block like the following:

<\uff5cDSML\uff5ctool_calls>
<\uff5cDSML\uff5cinvoke name="$TOOL_NAME">
<\uff5cDSML\uff5cparameter name="$PARAMETER_NAME"\
 string="true|false">$PARAMETER_VALUE</\uff5cDSML\uff5cparameter>
...
</\uff5cDSML\uff5cinvoke>
<\uff5cDSML\uff5cinvoke name="$TOOL_NAME2">
...
</\uff5cDSML\uff5cinvoke>
</\uff5cDSML\uff5ctool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers,\
 booleans, arrays, objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside\
 <think>...</think> BEFORE any tool calls or final response.

Otherwise, output directly after </think> with tool calls or final response.

### Available Tool Schemas

{"name": "f", "parameters": {"é": {}}}

You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.
"""


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
            ([user("a"), user("b")], f"{BOS}{U}a\n\nb{A}</think>"),
            ([user(["a", {"type": "text", "text": "b"}])], f"{BOS}{U}a\n\nb{A}</think>"),
            ([user("1"), assistant("2", prefix=True)], f"{BOS}{U}1{A}</think>2"),
        ],
        ids=range(9),
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


class TestTools:
    def test_schemas_follow_the_system_text(self) -> None:
        prompt = f"{BOS}S{TOLD}{U}1{A}</think>"
        assert encode([{**system("S"), "tools": [TOOL]}, user("1")]) == prompt
        assert encode([system("S"), user("1")], tools=[TOOL]) == prompt
        assert encode([user("1")], tools=[TOOL["function"]]) == f"{BOS}{TOLD}{U}1{A}</think>"

    def test_calls_follow_the_answer_and_results_stand_in_their_order(self) -> None:
        messages = [user("1"), CALLING, result("c1", "two"), user("and"), result("c0", "one")]
        told = "<tool_result>one</tool_result>\n\nand\n\n<tool_result>two</tool_result>"
        expected = f"{BOS}{U}1{A}</think>{CALLED}{EOS}{U}{told}{A}"
        assert encode(messages) == f"{expected}</think>"
        assert encode(messages, "low") == f"{expected}<think>"
        messages[1] = {**CALLING, "content": "Well."}
        assert encode(messages) == f"{expected}</think>".replace("</think>\n", "</think>Well.\n")

    def test_with_tools_all_reasoning_is_kept(self) -> None:
        messages = [user("1"), {**CALLING, "reasoning": "why"}, result("c0", "x"), user("2")]
        called = f"{CALLED}{EOS}{U}<tool_result>x</tool_result>\n\n2{A}<think>"
        assert encode(messages, "low") == f"{BOS}{U}1{A}</think>{called}"
        kept = encode(messages, "low", tools=[TOOL])
        assert kept == f"{BOS}{TOLD}{U}1{A}<think>why</think>{called}"

    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            ("not JSON", 'name="arguments" string="true">not JSON'),
            ('{"a": "1"}', 'name="a" string="true">1'),
            ({"a": 1.5}, 'name="a" string="false">1.5'),
        ],
    )
    def test_arguments(self, arguments, line) -> None:
        prompt = encode([user("1"), calling("f", arguments), result("c0", "")])
        assert f"<\uff5cDSML\uff5cparameter {line}</\uff5cDSML\uff5cparameter>\n" in prompt


class TestOtherMessages:
    def test_a_reminder_stands_under_its_own_token(self) -> None:
        reminder = {"role": "latest_reminder", "content": "today"}
        expected = f"{BOS}S<\uff5clatest_reminder\uff5c>today{U}1{A}</think>"
        assert encode([system("S"), reminder, user("1")]) == expected

    def test_a_developer_speaks_as_the_user_and_is_forgotten_with_its_question(self) -> None:
        messages = [{"role": "developer", "content": "1", "tools": [TOOL]}]
        assert encode(messages, "low") == f"{BOS}{U}1{TOLD}{A}<think>"
        messages = [{"role": "developer", "content": "1"}, assistant("2"), user("3")]
        assert encode(messages) == f"{BOS}{U}1{A}</think>2{EOS}{U}3{A}</think>"
        assert encode(messages, "low") == f"{BOS}2{EOS}{U}3{A}<think>"

    @pytest.mark.parametrize(
        ("task", "thinking", "end"),
        [
            ("query", None, "<\uff5cquery\uff5c>"),
            ("read_url", "low", "<\uff5cread_url\uff5c>"),
            ("action", None, f"{A}</think><\uff5caction\uff5c>"),
            ("action", "low", f"{A}<think><\uff5caction\uff5c>"),
        ],
    )
    def test_quick_instructions(self, task, thinking, end) -> None:
        assert encode([user("1") | {"task": task}], thinking) == f"{BOS}{U}1{end}"

    def test_the_task_of_a_text_that_follows_a_result_is_kept(self) -> None:
        """The published code loses it, which nobody can want."""
        messages = [user("1"), calling("f", {}), result("c0", "x"), user("2") | {"task": "query"}]
        end = f"{U}<tool_result>x</tool_result>\n\n2<\uff5cquery\uff5c>"
        assert encode(messages).endswith(end)

    def test_a_title_is_asked_after_an_answer(self) -> None:
        expected = f"{BOS}{U}1{A}</think>2{EOS}<\uff5ctitle\uff5c>"
        assert encode([user("1"), assistant("2", task="title")]) == expected

    def test_the_form_of_the_reply(self) -> None:
        message = {**system("S"), "response_format": {"type": "object"}}
        told = "## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n"
        expected = f'{BOS}S\n\n{told}{{"type": "object"}}{U}1{A}</think>'
        assert encode([message, user("1")]) == expected


class TestRefusals:
    @pytest.mark.parametrize(
        ("messages", "options", "message"),
        [
            (
                [user("Hi")],
                {"thinking": "low", "edition": "preview"},
                "'low' is no .* 'preview'. Edition '0731' has it. It has 'high', 'max'",
            ),
            ([user("Hi")], {"thinking": "huge"}, "It has 'low', 'high', 'max'; None is chat mode"),
            ([user("Hi")], {"thinking": ""}, "no reasoning effort"),
            ([user("Hi")], {"edition": "2031"}, "edition is 'preview' or '0731'; given was '2031'"),
            ([], {}, "must end with a user message"),
            ([system("S")], {}, "must end with a user message"),
            ([user("1"), assistant("2")], {}, "must end with a user message"),
            ([user("1"), system("2")], {}, "must end with a user message"),
            ([{"role": "tool", "content": "x"}], {}, "Message 0 is a tool result, but"),
            ([user("1"), {"role": "tool", "content": "x"}], {}, "called no tool before it"),
            ([user("1"), CALLING, result("c9", "x")], {}, "call 'c9', .* calls are 'c0', 'c1'"),
            ([assistant("x"), user("1")], {}, "Message 0 is the assistant's and answers nobody"),
            (
                [user("1"), assistant("2"), assistant("3"), user("4")],
                {},
                "Message 2 .* answers nob",
            ),
            ([user([{"type": "image_url", "image_url": "x"}])], {}, "has a image_url in 'content'"),
            ([user("1") | {"task": "fly"}], {}, "the task 'fly'; the tasks are 'action', 'query'"),
            ([user("1")], {"tools": [{"type": "function"}]}, "A tool has no name"),
            ([user("1"), calling("f", "[1]"), result("c0", "")], {}, "of 'f' are an object"),
            ([{"content": "x"}], {}, "has the role None"),
            ([{"role": "user", "content": [5]}], {}, r"Message 0 has no text in 'content'"),
            ([user("1"), {"role": "user"}], {}, "Message 1 has no text"),
            ("hello", {}, "A conversation is a list of messages .* given was a str"),
            (None, {}, "given was a NoneType"),
            (user("1"), {}, "given was a dict"),
            (["hello"], {}, "Message 0 is a str. A message is a dict such as"),
            ([user("1") | {"task": ["title"]}], {}, r"the task \['title'\]; the tasks are"),
            ([user("1")], {"tools": [{"name": "f", "parameters": {1}}]}, "JSON, and this has none"),
            (
                [user("1"), calling("f", {"x": object()}), result("c0", "")],
                {},
                "object is not JSON serializable",
            ),
            (
                [user([{"type": "image_url", "text": "a cat", "image_url": "x"}])],
                {},
                "has a image_url in 'content'; the model reads text only",
            ),
            (
                [user("1"), CALLING, result("c0", "x"), result("c0", "y")],
                {},
                "Message 3 is a second result of call 'c0'",
            ),
            (
                [user("1"), calling("f", {}), *[{"role": "tool", "content": "x"}] * 2],
                {},
                r"Message 3 is one tool result more than the assistant made calls \(1\)",
            ),
            ([user("1")], {"thinking": True}, "thinking=True is no reasoning effort"),
            ([user("1")], {"edition": ["0731"]}, "edition is 'preview' or '0731'"),
        ],
        ids=range(32),
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

    def test_calls_and_results_are_of_a_tool(self) -> None:
        pieces = [
            (BOS, "system"), ("<tool_result>", "system"), (U, "user"), ("<tool_", "tool"),
            ("result>", "tool"), ("x", "tool"), ("</tool_result> and", "tool"), (" y", "user"),
            (A, "answer"), ("</think>", "answer"), ("a", "answer"), ("\n\n<", "tool"),
            ("\uff5cDSML\uff5c", "tool"), ("tool_calls>", "tool"), ("", "tool"), ("x", "tool"),
            (EOS, "tool"), (U, "user"), ("<tool_result", "user"), (A, "answer"),
        ]  # fmt: skip
        tokens, expected = zip(*pieces, strict=True)
        assert roles(tokens, tokens, chat=True) == list(expected)

    def test_thinking_is_the_assistants(self) -> None:
        tokens = [BOS, "<think>", "S", "</think>", U, "<think>", "</think>", "q", A, "<think>", "r"]
        expected = ["system"] * 4 + ["user"] * 4 + ["answer", "reasoning", "reasoning"]
        assert roles(tokens, chat=True) == expected

    def test_other_openings(self) -> None:
        tokens = [
            BOS,
            U,
            "q",
            "<\uff5cquery\uff5c>",
            "a",
            EOS,
            "<\uff5clatest_reminder\uff5c>",
            "r",
        ]
        expected = ["system", "user", "user", "answer", "answer", "answer", "system", "system"]
        assert roles(tokens, chat=True) == expected
