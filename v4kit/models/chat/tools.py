"""Tools: how they are told to the model, how calls and results are written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from v4kit.errors import InputError
from v4kit.models.chat.vocabulary import CALLS, DSML, END_CALLS, END_THINK, THINK

_TOLD = f"""\
## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by \
writing a "{CALLS}" block like the following:

{CALLS}
<{DSML}invoke name="$TOOL_NAME">
<{DSML}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{DSML}parameter>
...
</{DSML}invoke>
<{DSML}invoke name="$TOOL_NAME2">
...
</{DSML}invoke>
{END_CALLS}

String parameters should be specified as is and set `string="true"`. For all other types \
(numbers, booleans, arrays, objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by {THINK}), you MUST output your complete reasoning inside \
{THINK}...{END_THINK} BEFORE any tool calls or final response.

Otherwise, output directly after {END_THINK} with tool calls or final response.

### Available Tool Schemas

"""
_OBEY = (
    "\n\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool "
    "calls.\n"
)
_FORMAT = (
    "## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n{schema}"
)


def told(message: Mapping[str, Any]) -> str:
    """Return what follows a system or developer text: its tools, and the form of the reply.

    Raises:
        InputError: A tool without a name.
    """
    text = ""
    if message.get("tools"):
        schemas = "\n".join(to_json(_function(tool)) for tool in message["tools"])
        text += "\n\n" + _TOLD + schemas + _OBEY
    if message.get("response_format"):
        text += "\n\n" + _FORMAT.format(schema=to_json(message["response_format"]))
    return text


def calls_text(calls: Sequence[Mapping[str, Any]]) -> str:
    """Return the block that an assistant's tool calls follow its answer with; empty for none.

    Raises:
        InputError: A call without a name, or with arguments that are no object.
    """
    if not calls:
        return ""
    return f"\n\n{CALLS}\n" + "\n".join(map(_call, calls)) + f"\n{END_CALLS}"


def to_json(value: Any) -> str:
    """Return JSON as the model has learned it: letters of all scripts as they are.

    Raises:
        InputError: There is no JSON for it.
    """
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"Tools, arguments and forms of a reply are written as JSON, and this has none "
            f"({error}): {str(value)[:80]}. Give dicts, lists, texts, numbers, booleans and None."
        ) from error


def _function(tool: Any) -> Mapping[str, Any]:
    """Return a tool's function, which may stand bare."""
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if isinstance(function, Mapping) and isinstance(function.get("name"), str):
        return function
    raise InputError(
        f"A tool has no name; given was {tool!r}. "
        'Give {"type": "function", "function": {"name": …, "description": …, "parameters": …}}.'
    )


def _call(call: Mapping[str, Any]) -> str:
    function = _function(call)
    lines = "\n".join(
        f'<{DSML}parameter name="{name}" string="{str(isinstance(value, str)).lower()}">'
        f"{value if isinstance(value, str) else to_json(value)}</{DSML}parameter>"
        for name, value in _arguments(function).items()
    )
    return f'<{DSML}invoke name="{function["name"]}">\n{lines}\n</{DSML}invoke>'


def _arguments(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a call's arguments; a text that is no JSON is one argument, as the vendor has it."""
    given = function.get("arguments", {})
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return {"arguments": given}
    if isinstance(given, Mapping):
        return given
    raise InputError(
        f"The arguments of a call of {function['name']!r} are an object, as a dict or as JSON; "
        f"given was {given!r}."
    )
