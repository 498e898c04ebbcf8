"""Edits of the routing: what a layer chooses, and how much of each expert it takes."""

from v4kit.intervene.base import Edit
from v4kit.intervene.editing import Editing
from v4kit.intervene.making import (
    ablate,
    ablate_router,
    ablate_shared,
    budget,
    force,
    nudge,
    replay,
    scale,
    steer,
)

__all__ = [
    "Edit",
    "Editing",
    "ablate",
    "ablate_router",
    "ablate_shared",
    "budget",
    "force",
    "nudge",
    "replay",
    "scale",
    "steer",
]
