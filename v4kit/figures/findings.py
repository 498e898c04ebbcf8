"""What figures of analyses and experiments are given."""

from __future__ import annotations

from collections.abc import Iterable

import xarray as xr

from v4kit.errors import InputError


def result_of(source: str, found: object, names: Iterable[str]) -> xr.Dataset:
    """Return what was given, if it has the variables and coordinates that a figure draws.

    Args:
        source: The function whose result the figure shows.
        found: What was given.
        names: What it must hold.

    Raises:
        InputError: It is no such result.
    """
    if not isinstance(found, xr.Dataset):
        raise InputError(
            f"This figure shows what {source} returned; given was {type(found).__name__}."
        )
    lacking = [name for name in names if name not in found.variables]
    if lacking:
        held = ", ".join(map(str, found.data_vars)) or "nothing"
        raise InputError(
            f"This figure shows what {source} returned; given was a Dataset of {held}, which has "
            f"no {lacking[0]}."
        )
    return found
