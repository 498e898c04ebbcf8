"""From traces to the elements that are written to each array on disk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from v4kit.trace import schema
from v4kit.trace.layout import Stored, masses_path
from v4kit.trace.trace import Trace


class Values:
    """Turns rows into elements, and remembers the codes that labels and the like were given."""

    def __init__(self) -> None:
        self._codes: dict[str, dict[str, int]] = {
            column.name: {} for column in schema.COLUMNS if column.dtype == "code"
        }

    @property
    def codes(self) -> dict[str, list[str]]:
        """The strings of all codes, in their order."""
        return {name: list(codes) for name, codes in self._codes.items()}

    def of(
        self, parts: Sequence[Trace], stored: dict[str, Stored], ends: dict[str, int]
    ) -> dict[str, np.ndarray]:
        """Return the new elements of every array that grows, by path.

        Args:
            parts: Traces in memory, one after the other.
            stored: The arrays on disk, by path.
            ends: How many elements each has so far.
        """
        tokens = pd.concat([part.tokens for part in parts], ignore_index=True)
        values = self._tokens(tokens, ends)
        for path, array in stored.items():
            room, _, name = path.partition("/")
            if array.grows and room == "routing":
                columns = [part.routing[name].to_numpy() for part in parts]
                values[path] = np.concatenate(columns)
        kept = [part.stored_attention for part in parts if part.stored_attention is not None]
        if kept:
            for variable in kept[0].values.data_vars:
                columns = [part.values[variable].to_numpy() for part in kept]
                values[f"attention/{variable}"] = np.concatenate(columns)
            for layer in range(len(kept[0].masses)):
                flats = [np.asarray(part.masses[layer].flat()) for part in kept]
                values[masses_path(layer)] = np.concatenate(flats)
        return values

    def _tokens(self, tokens: pd.DataFrame, ends: dict[str, int]) -> dict[str, np.ndarray]:
        """Return the new elements of every array of the token table."""
        values: dict[str, np.ndarray] = {}
        for column in schema.COLUMNS:
            path, series = f"tokens/{column.name}", tokens[column.name]
            if column.dtype == "text":
                encoded = [text.encode() for text in schema.plain_text(series.fillna("").tolist())]
                sizes = np.cumsum([len(text) for text in encoded], dtype=np.int64)
                values[f"{path}_end"] = sizes + ends.get(f"{path}_bytes", 0)
                values[f"{path}_bytes"] = np.frombuffer(b"".join(encoded), np.uint8)
            elif column.dtype == "code":
                codes = self._codes[column.name]
                numbers, texts = pd.factorize(series.fillna(column.missing))
                known = [codes.setdefault(t, len(codes)) for t in schema.plain_text(texts)]
                values[path] = np.array(known, np.int32)[numbers]
            else:
                values[path] = schema.exactly(column.name, series.to_numpy(), column.dtype)
        return values
