"""What analyses take and give back: traces, and Datasets that say what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from v4kit.core import LAYER
from v4kit.errors import InputError
from v4kit.trace import Trace


def checked(trace: Trace) -> Trace:
    """Return what was given, if it is a trace.

    Raises:
        InputError: It is none.
    """
    if not isinstance(trace, Trace):
        raise InputError(
            f"An analysis takes a trace; given was {type(trace).__name__}. "
            "Give what model.generate(…), model.read(…) or v4kit.open_trace(…) returned."
        )
    return trace


def dataset(trace: Trace, data: dict[str, Any], meanings: Mapping[str, str]) -> xr.Dataset:
    """Return variables by layer with the layers' routing kinds, and what all of them mean."""
    kinds = trace.routing["kind"].to_numpy()
    found = described(data, meanings, special_tokens=special_tokens(trace))
    return found.assign_coords({LAYER: np.arange(len(kinds)), "kind": (LAYER, kinds)})


def described(data: dict[str, Any], meanings: Mapping[str, str], **attrs: Any) -> xr.Dataset:
    """Return a Dataset whose variables carry what they mean, in `attrs["meaning"]`."""
    found = xr.Dataset(data, attrs=attrs)
    for name, variable in found.data_vars.items():
        variable.attrs["meaning"] = meanings[str(name)]
    return found


def special_tokens(trace: Trace) -> int:
    """Return how many special tokens were fed to the model, and so count in what is told."""
    return int((trace.tokens["special"] & trace.tokens["valid"]).sum())
