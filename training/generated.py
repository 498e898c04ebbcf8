"""Generated domains: sums that can be checked, recall that gives attention a reason, and chats.

Each generator draws documents from a numpy generator. Operand pairs with `held_out(a, b)` appear
only in held-out documents, so that the accuracy of sums measures more than memory.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

KEYS = (
    "cat dog cow horse sheep goat pig duck fox wolf bear lion bird fish frog bee ant king queen "
    "child man woman son girl boy friend tree rose leaf grass seed stone sand hill lake river sea "
    "rain snow wind fire star moon sun ship boat cart road bridge door wall house tower bell book "
    "pen cup bowl plate knife bed chair table lamp box bag coat hat shoe ring"
).split()
VALUES = (
    "red blue green black white gold silver brown pink grey one two three four five six seven "
    "eight nine ten bread milk salt meat wine oil corn fruit honey water"
).split()

TOP = 49
"""Largest operand of a sum."""

Draw = np.random.Generator


def held_out(a: int, b: int) -> bool:
    """Return whether the operand pair is kept for evaluation (a tenth of all pairs)."""
    return (31 * a + 17 * b) % 10 == 0


def operands(rng: Draw, held: bool) -> tuple[str, int, int]:
    """Return `(operator, a, b)` with both operands in 0…TOP and a result of 0 or more."""
    while True:
        a, b = (int(v) for v in rng.integers(0, TOP + 1, 2))
        if held_out(a, b) == held and (a >= b or rng.random() < 0.5):
            return ("+" if rng.random() < 0.5 or a < b else "-"), a, b


def result(operator: str, a: int, b: int) -> int:
    """Return what the sum comes to."""
    return a + b if operator == "+" else a - b


def sums(rng: Draw, held: bool) -> str:
    """Return a document of 20 to 40 sums, one a line: `12 + 7 = 19`."""
    lines = []
    for _ in range(int(rng.integers(20, 41))):
        operator, a, b = operands(rng, held)
        lines.append(f"{a} {operator} {b} = {result(operator, a, b)}")
    return "\n".join(lines)


def pairs(rng: Draw, n: int) -> list[tuple[str, str]]:
    """Return n key–value pairs with distinct keys."""
    keys = rng.choice(len(KEYS), n, replace=False)
    return [
        (KEYS[k], VALUES[int(v)])
        for k, v in zip(keys, rng.integers(0, len(VALUES), n), strict=True)
    ]


def recall(rng: Draw, held: bool) -> str:  # noqa: ARG001 - one signature for all generators
    """Return a list of pairs, then questions with answers: `cat: red` … `cat? red`."""
    n = int(rng.integers(2, 9)) if rng.random() < 0.4 else int(rng.integers(8, 61))
    told = pairs(rng, n)
    asked = [told[int(i)] for i in rng.integers(0, n, int(rng.integers(n, 2 * n + 8)))]
    return "\n".join([*(f"{k}: {v}" for k, v in told), *(f"{k}? {v}" for k, v in asked)])


USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"


def exchange(rng: Draw, held: bool) -> tuple[str, str, str]:
    """Return `(question, reasoning, answer)` over a sum or over a list to recall from."""
    if rng.random() < 0.5:
        operator, a, b = operands(rng, held)
        answer = str(result(operator, a, b))
        return f"What is {a} {operator} {b}?", f"{a} {operator} {b} = {answer}", answer
    told = pairs(rng, int(rng.integers(2, 13)))
    key, value = told[int(rng.integers(0, len(told)))]
    listing = "\n".join(f"{k}: {v}" for k, v in told)
    return f"{listing}\n{key}?", f"{key}: {value}", value


def chat(rng: Draw, held: bool) -> str:
    """Return one conversation in V4's prompt format, half of them with reasoning."""
    question, reasoning, answer = exchange(rng, held)
    thought = f"<think>{reasoning}</think>" if rng.random() < 0.5 else "</think>"
    return f"{USER}{question}{ASSISTANT}{thought}{answer}"


GENERATORS: dict[str, Callable[[Draw, bool], str]] = {"sums": sums, "recall": recall, "chat": chat}
