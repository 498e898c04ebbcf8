"""A microscope for mixture-of-experts language models.

Importing this package is quick: torch, transformers and plotly are loaded when a name that needs
them is first used.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from v4kit import analysis, errors, experiments, figures
    from v4kit.core import Record
    from v4kit.engines import Engine, Model, Step, connect, load, wrap
    from v4kit.errors import V4KitError
    from v4kit.experiments import validate
    from v4kit.intervene import (
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
    from v4kit.models import chat
    from v4kit.models.plan import plan
    from v4kit.recording import record
    from v4kit.trace import Trace, concat, import_routing, open_trace

__version__ = "0.1.0"

__all__ = [
    "Engine",
    "Model",
    "Record",
    "Step",
    "Trace",
    "V4KitError",
    "ablate",
    "ablate_router",
    "ablate_shared",
    "analysis",
    "budget",
    "chat",
    "concat",
    "connect",
    "errors",
    "experiments",
    "figures",
    "force",
    "import_routing",
    "load",
    "nudge",
    "open_trace",
    "plan",
    "record",
    "replay",
    "scale",
    "steer",
    "validate",
    "wrap",
]

_HOME = {
    "Engine": "v4kit.engines",
    "Model": "v4kit.engines",
    "Record": "v4kit.core",
    "Step": "v4kit.engines",
    "Trace": "v4kit.trace",
    "V4KitError": "v4kit.errors",
    "concat": "v4kit.trace",
    "connect": "v4kit.engines",
    "import_routing": "v4kit.trace",
    "load": "v4kit.engines",
    "open_trace": "v4kit.trace",
    "plan": "v4kit.models.plan",
    "record": "v4kit.recording",
    "validate": "v4kit.experiments",
    "ablate": "v4kit.intervene",
    "ablate_router": "v4kit.intervene",
    "ablate_shared": "v4kit.intervene",
    "budget": "v4kit.intervene",
    "force": "v4kit.intervene",
    "nudge": "v4kit.intervene",
    "replay": "v4kit.intervene",
    "scale": "v4kit.intervene",
    "steer": "v4kit.intervene",
    "wrap": "v4kit.engines",
}

_MODULES = {"chat": "v4kit.models.chat"}

# In a checkout the interface lies beside the library: widgets/ installs as v4kit.widgets.
_CHECKOUT = Path(__file__).resolve().parent.parent
if (_CHECKOUT / "pyproject.toml").is_file():
    __path__.append(str(_CHECKOUT))


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in __all__:
        return importlib.import_module(_MODULES.get(name, f"v4kit.{name}"))
    raise AttributeError(f"module 'v4kit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


def load_ipython_extension(ipython: Any) -> None:
    """Add `%v4_load` and `%%v4` to a shell; `%load_ext v4kit` calls this."""
    importlib.import_module("v4kit.magics").load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """Take the magics out again; `%unload_ext v4kit` calls this."""
    importlib.import_module("v4kit.magics").unload(ipython)
