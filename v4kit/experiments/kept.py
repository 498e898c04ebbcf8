"""What a long experiment has found so far, and the file that it goes on from."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np

from v4kit.core import NONE
from v4kit.errors import InputError

_EVERY = 10.0
"""Seconds between two writings."""


class Kept:
    """Effects `[act, token, layer, slot]` of the tokens that are done, NaN elsewhere."""

    def __init__(self, path: Path | None, shape: tuple[int, int, int], about: str) -> None:
        self.kl = np.full((3, *shape), np.nan)
        self.delta = np.full((3, *shape), np.nan)
        self.control = np.full(shape, NONE)
        self.done = 0
        self._path, self._about, self._written = path, about, time.monotonic()

    @classmethod
    def begin(
        cls, path: str | Path | None, shape: tuple[int, int, int], about: dict[str, Any]
    ) -> Self:
        """Return what the file holds, or nothing yet.

        Raises:
            InputError: The file is of another run or none of this kit's, or its folder is not
                there.
        """
        kept = cls(None if path is None else Path(path), shape, json.dumps(about))
        if kept._path is not None and kept._path.exists():
            kept._read(kept._path)
        elif kept._path is not None and not kept._path.parent.is_dir():
            # Now, not when all the work is done.
            raise InputError(
                f"There is no folder {str(kept._path.parent)!r} to write {kept._path.name} to. "
                "Make it first."
            )
        return kept

    def _read(self, path: Path) -> None:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                same = str(found["about"]) == self._about
                arrays = {name: found[name] for name in ("kl", "delta", "control", "done")}
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise InputError(
                f"{path} does not hold an experiment of v4kit. Give another file."
            ) from error
        if not same:
            raise InputError(
                f"{path} holds the same experiment on another text, model, tokens or seed, "
                "or in another precision. "
                "Give another file, or remove it."
            )
        self.kl, self.delta, self.control = (arrays[n] for n in ("kl", "delta", "control"))
        self.done = int(arrays["done"])

    def step(self) -> None:
        """Count one more token as done, and write from time to time."""
        self.done += 1
        if time.monotonic() - self._written > _EVERY:
            self.write()

    def write(self) -> None:
        """Write to the file, if there is one, in one piece: what was there stays or is replaced."""
        # A token that was broken off does not count, and is done anew.
        self.kl[:, self.done :] = self.delta[:, self.done :] = np.nan
        self.control[self.done :] = NONE
        if self._path is None:
            return
        part = self._path.with_name(f"{self._path.name}.part")
        with part.open("wb") as file:
            np.savez_compressed(
                file, about=np.array(self._about), kl=self.kl, delta=self.delta,
                control=self.control, done=self.done,
            )  # fmt: skip
        part.replace(self._path)
        self._written = time.monotonic()
