"""A view that keeps edits of the routing, for the runs that it begins."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

from traitlets import Bool, Dict, List, observe

from v4kit.core import NONE
from v4kit.errors import InputError, V4KitError
from v4kit.widgets.edits import OTHER, Row, edit_of, kinds_for, row_of
from v4kit.widgets.routing import RoutingView
from v4kit.widgets.view import Reply

if TYPE_CHECKING:
    from v4kit.intervene import Edit
    from v4kit.trace import Trace


class EditedView(RoutingView):
    """A `RoutingView` with edits that a page shows as a list, with sliders.

    `edits` are those that are switched on, in their order.
    """

    _rows: Any = List(help="The edits, as a page shows them.").tag(sync=True)
    _kinds: Any = List(help="What a row can say.").tag(sync=True)
    _editable = Bool(help="Whether the model can be edited.").tag(sync=True)
    _refused: Any = Dict(help="A row that can't act, and why.").tag(sync=True)
    model: Any

    def __init__(self, source: Any, *, edits: Iterable[Edit] = (), **traits: Any) -> None:
        self._kept: dict[int, Edit] = {}
        self._keys = count()
        able = hasattr(self.model, "editing")
        kinds = kinds_for(self.model.architecture.top_k) if able else []
        super().__init__(source, _editable=able, _kinds=kinds, **traits)
        self.edits = list(edits)

    @property
    def edits(self) -> list[Edit]:
        """The edits that the next run has.

        Raises:
            InputError: A row says none that can be meant.
        """
        return [self._edit_of(row) for row in self._rows if row.get("on")]

    @edits.setter
    def edits(self, edits: Iterable[Edit]) -> None:
        several = list(edits)
        if several and not self._editable:
            raise InputError(
                "An engine runs elsewhere, so that its routing can't be edited. Load the model "
                "here."
            )
        if several:
            # Whether they can act is told now, not when a run begins.
            self.model.editing(several)
        keys = [next(self._keys) for _ in several]
        self._kept = dict(zip(keys, several, strict=True))
        self._rows = [row_of(edit, key) for key, edit in self._kept.items()]

    def _edit_of(self, row: Row) -> Edit:
        if row.get("kind") != OTHER:
            return edit_of(row)
        edit = self._kept.get(row.get("key", NONE))
        if edit is None:
            raise InputError(f"There is no edit {row.get('text')!r} any more. Remove its row.")
        return edit

    @observe("_rows")
    def _check_rows(self, _: Any) -> None:
        """Tell the first row that can't act, alone or beside those before it."""
        acting: list[Edit] = []
        for place, row in enumerate(self._rows):
            try:
                if row.get("on"):
                    acting.append(self._edit_of(row))
                    self.model.editing(acting)
            except V4KitError as error:
                self._refused = {"row": place, "why": str(error)}
                return
        self._refused = {}

    def _matched(self, layer: int, experts: list[int], seed: int = 0) -> Reply:
        """Answer with other experts of like load, to be treated the same as a control."""
        from v4kit.analysis import load_matched

        if not len(self.trace):
            raise InputError("Load is counted in a run. Run a prompt first, then draw a control.")
        return {"experts": load_matched(self.trace, layer, experts, seed=seed)}, ()

    questions: ClassVar = {**RoutingView.questions, "matched": _matched}


def effect(trace: Trace) -> str:
    """Return in a sentence what the edits of a run displaced; nothing if it had none."""
    if not trace.meta.get("edits"):
        return ""
    fed = int(trace.tokens["valid"].sum())
    if "displaced" not in trace.routing or not fed:
        return ""
    moved = (trace.routing["displaced"].to_numpy() != NONE).any(axis=(1, 2))
    if not moved.any():
        return " The edits left every token its experts."
    return f" Edits gave {int(moved.sum())} of {fed} tokens other experts."
