"""The tokens and fixed texts of DeepSeek-V4's prompt format."""

from __future__ import annotations

from typing import Any

from v4kit.errors import InputError

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
REMINDER = "<｜latest_reminder｜>"
THINK = "<think>"
END_THINK = "</think>"
DSML = "｜DSML｜"
CALLS, END_CALLS = f"<{DSML}tool_calls>", f"</{DSML}tool_calls>"
RESULT, END_RESULT = "<tool_result>", "</tool_result>"
TASKS = {
    name: f"<｜{name}｜>"
    for name in ("action", "query", "authority", "domain", "title", "read_url")
}
"""Quick instructions: what a message asks to be told of it in a word or two → its token."""

MAX_CONTEXT = 393_216
"""Tokens of context that effort "max" is meant for; with them it is called "V4-Flash-Max"."""

_ABSOLUTE = (
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to "
    "resolve the root cause, rigorously stress-testing your logic against all potential paths, "
    "edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, "
    "considered alternative, and rejected hypothesis to ensure absolutely no assumption is left "
    "unchecked.\n\n"
)
_BEYOND = (
    "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: "
    "exhaustively decompose the problem into its most fundamental components, trace every causal "
    "chain to its root, and resolve the underlying cause rather than any surface symptom.\n"
    "Do not stop reasoning until you have independently verified the solution from multiple angles "
    "and are certain that no assumption remains unchecked and no error remains undiscovered.\n\n"
)
EFFORTS: dict[str, dict[str, str]] = {
    "preview": {"high": "", "max": _ABSOLUTE},
    "0731": {"low": "", "high": _ABSOLUTE, "max": _BEYOND},
}
"""The text that a reasoning effort puts before the system text, by checkpoint generation."""


def edition_of(config: Any) -> str | None:
    """Return the generation of a DeepSeek-V4 checkpoint: configs since "0731" speak of DSpark.

    Other families have prompt formats of their own, and None is returned.
    """
    if getattr(config, "model_type", None) != "deepseek_v4":
        return None
    later = any(key.startswith("dspark_") for key in config.to_dict())
    return "0731" if later else "preview"


def effort_text(thinking: str | None, edition: str) -> str:
    """Return what a reasoning effort puts before everything else.

    Raises:
        InputError: There is no such edition, or it has no such effort.
    """
    if edition not in list(EFFORTS):
        raise InputError(f"edition is {' or '.join(map(repr, EFFORTS))}; given was {edition!r}.")
    if thinking is None:
        return ""
    if thinking not in list(EFFORTS[edition]):
        known = ", ".join(map(repr, EFFORTS[edition]))
        others = [repr(name) for name, efforts in EFFORTS.items() if thinking in efforts]
        elsewhere = f" Edition {others[0]} has it." if others else ""
        raise InputError(
            f"thinking={thinking!r} is no reasoning effort of edition {edition!r}.{elsewhere} "
            f"It has {known}; None is chat mode without reasoning."
        )
    return EFFORTS[edition][thinking]
