"""Edits of the routing as rows of a list that a page shows, and rows as edits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from v4kit.errors import InputError

if TYPE_CHECKING:
    from v4kit.intervene import Edit

Row = dict[str, Any]
"""What a page knows of an edit: `kind`, `layer` (None: all that it can act on), `experts`,
`amount`, `tokens` ("all", "prompt" or "generated"), `on`, `key`; of one that it can't change, its
`text`."""

OTHER = "other"
"""Kind of an edit that Python made and that no row can say: a page may switch it off."""


@dataclass(frozen=True, slots=True)
class Amount:
    """A number that an edit has, as a slider."""

    name: str
    """What it is called."""
    least: float
    """Left end."""
    most: float
    """Right end; 0: as many as a token has experts."""
    step: float
    """From one to the next."""
    first: float
    """Where a new row begins."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of edit that a row can say."""

    label: str
    """What it does, in words."""
    make: Callable[[Any, dict[str, Any], Row], Edit]
    """Makes it, given the module of edits, layer and tokens by name, and the row."""
    amount: Amount | None = None
    """Its number, if it has one."""
    experts: bool = True
    """Whether it names experts."""
    hashed: bool = False
    """Whether it can act on layers whose experts follow from the token id."""


KINDS: dict[str, Kind] = {
    "ablate": Kind(
        "take out, others in their place", lambda v4, to, r: v4.ablate(experts=r["experts"], **to)
    ),
    "knock_out": Kind(
        "knock out, nobody in their place",
        lambda v4, to, r: v4.ablate(experts=r["experts"], reroute=False, **to),
        hashed=True,
    ),
    "force": Kind("always choose", lambda v4, to, r: v4.force(experts=r["experts"], **to)),
    "scale": Kind(
        "multiply the weight",
        lambda v4, to, r: v4.scale(experts=r["experts"], factor=r["amount"], **to),
        Amount("times", 0.0, 3.0, 0.05, 0.5),
        hashed=True,
    ),
    "nudge": Kind(
        "add to the score of selection",
        lambda v4, to, r: v4.nudge(experts=r["experts"], delta=r["amount"], **to),
        Amount("plus", -1.0, 1.0, 0.01, 0.1),
    ),
    "budget": Kind(
        "fewer experts per token",
        lambda v4, to, r: v4.budget(k=_whole(r["amount"]), **to),
        Amount("at most", 1, 0, 1, 1),
        experts=False,
        hashed=True,
    ),
}
"""What a row can say; to add a kind, add a line."""


def kinds_for(top_k: int) -> list[dict[str, Any]]:
    """Return the kinds as JSON data, for a model whose tokens have so many experts."""
    return [
        {
            "name": name,
            "label": kind.label,
            "experts": kind.experts,
            "hashed": kind.hashed,
            "amount": None if kind.amount is None else _slider(kind.amount, top_k),
        }
        for name, kind in KINDS.items()
    ]


def edit_of(row: Row) -> Edit:
    """Return the edit that a row says.

    Raises:
        InputError: It says none that can be meant.
    """
    from v4kit import intervene

    kind = KINDS.get(row.get("kind", ""))
    if kind is None:
        raise InputError(f"An edit is one of {', '.join(KINDS)}; given was {row.get('kind')!r}.")
    tokens = row.get("tokens", "all")
    if not isinstance(tokens, str):
        raise InputError(f"An edit acts on all tokens or those of a phase; given was {tokens!r}.")
    to = {"layer": row.get("layer"), "tokens": (0, None) if tokens == "all" else tokens}
    return kind.make(intervene, to, {"experts": [], "amount": None, **row})


def row_of(edit: Edit, key: int) -> Row:
    """Return the row that says an edit; one with its text, if no row can say it."""
    data = edit.data()
    layers, tokens = data["layers"], data["tokens"]
    amount = next((data[name] for name in ("factor", "delta", "k") if name in data), None)
    row: Row = {
        "layer": layers[0] if layers else None,
        "experts": data.get("experts") or data.get("prefer") or [],
        "amount": amount,
        "tokens": "all" if tokens == [0, None] else tokens,
        "on": True,
        "key": key,
    }
    for name in KINDS:
        try:
            if edit_of({**row, "kind": name}) == edit:
                return {**row, "kind": name}
        except InputError:
            continue
    return {"kind": OTHER, "text": described(edit), "on": True, "key": key}


def described(edit: Edit) -> str:
    """Return an edit in a line, as its trace names it."""
    data = edit.data()
    name = data.pop("edit")
    told = {key: value for key, value in data.items() if value not in (None, [], [0, None], False)}
    return f"{name}({', '.join(f'{key}={value}' for key, value in told.items())})"


def _slider(amount: Amount, top_k: int) -> dict[str, Any]:
    most = amount.most or top_k
    names = ("name", "least", "step", "first")
    return {**{name: getattr(amount, name) for name in names}, "most": most}


def _whole(value: Any) -> Any:
    """Return a number without its point, where it is whole: a page has one kind of numbers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
