"""The import law: who may import whom, where heavy libraries enter, what an import costs."""

import json
from pathlib import Path

import pytest

from tests.house.imports import Import, imports_of
from tests.house.sources import Module, package_modules, run_python

ENTRY = ("cli", "magics", "demo", "doctor", "__main__")
"""The entry points: the only ones to use the façade, and each other."""

ROWS = (
    ("errors",),
    ("core",),
    ("attention",),
    ("trace", "arch"),
    ("analysis", "models"),
    ("figures", "recording"),
    ("intervene",),
    ("engines",),
    ("experiments",),
    ("widgets",),
    ENTRY,
)
"""Bottom to top. A module imports only from lower rows and from its own room."""

HEIGHT = {room: height for height, row in enumerate(ROWS) for room in row}

DEFERRED_UPWARD = {
    ("trace", "figures"): "to_html and the notebook picture are methods of Trace",
}
"""Upward imports that are allowed inside functions, each with its reason."""

ANALYST = {"trace", "attention", "analysis", "figures", "engines", "experiments"}

HEAVY = {
    "torch": {"models", "recording", "intervene", "engines", "experiments"},
    "transformers": {"models", "engines", "experiments"},
    "accelerate": {"models", "engines", "experiments"},
    "safetensors": {"models"},
    "httpx": {"engines"},
    "tokenizers": {"models", "recording"},
    "xarray": ANALYST,
    "pandas": ANALYST,
    "dask": {"attention", "trace", "analysis"},
    "zarr": {"trace"},
    "plotly": {"figures", "widgets"},
    "ipywidgets": {"widgets"},
    "anywidget": {"widgets"},
    "traitlets": {"widgets"},
    "IPython": {"widgets", "magics"},
}
"""Heavy library → the rooms that may import it. Rooms not named may not, in functions neither."""

HEAVY_DEFERRED = {
    "pyarrow": {"trace"},
    "PIL": {"figures", "widgets"},
    "jinja2": {"figures", "widgets"},
    "IPython": {"cli", "demo", "figures"},
}
"""Heavy library → the rooms that may import it inside functions only."""


def room_of(name: str) -> str | None:
    """The room that a dotted v4kit name lies in; None for the façade and its names."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in HEIGHT else None


def allowed(importer: str | None, imported: str | None, *, deferred: bool) -> bool:
    """Whether the law lets one room import from another. None is the façade, above all."""
    if importer is None or importer == imported or {importer, imported} <= set(ENTRY):
        return True
    if imported is None:
        return importer in ENTRY
    downward = HEIGHT[imported] < HEIGHT[importer]
    return downward or (deferred and (importer, imported) in DEFERRED_UPWARD)


def heavy_allowed(importer: str | None, library: str, *, deferred: bool) -> bool:
    """Whether a room may import a library; libraries in neither table are free."""
    if library not in HEAVY and library not in HEAVY_DEFERRED:
        return True
    rooms = HEAVY.get(library, set())
    if deferred:
        rooms = rooms | HEAVY_DEFERRED.get(library, set())
    return importer in rooms


def violation(module: Module, found: Import) -> str | None:
    """What is wrong with one import, in a sentence, or None."""
    importer, library = room_of(module.name), found.target.split(".")[0]
    where = f"{module.name}:{found.line} imports {found.target}"
    if library == "v4kit":
        imported = room_of(found.target)
        if not allowed(importer, imported, deferred=found.deferred):
            return f"{where}: {importer} lies below {imported or 'the façade'}, or beside it"
    elif not found.typing_only and not heavy_allowed(importer, library, deferred=found.deferred):
        return f"{where}: {library} does not belong in {importer or 'the façade'}"
    return None


def violations(module: Module) -> list[str]:
    """Everything in a module that breaks the law."""
    return [text for found in imports_of(module) if (text := violation(module, found))]


@pytest.mark.parametrize("module", package_modules(), ids=lambda module: module.name)
def test_module_keeps_the_law(module: Module) -> None:
    assert not violations(module)


@pytest.mark.parametrize("module", package_modules(), ids=lambda module: module.name)
def test_module_lies_in_a_room(module: Module) -> None:
    assert module.name == "v4kit" or room_of(module.name), (
        f"{module.name} lies in no room: move it into one, or give it a row in ROWS."
    )


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("v4kit.trace.store", "from v4kit.models import load"),
        ("v4kit.trace.store", "from v4kit import figures"),
        ("v4kit.trace.store", "from ..models import load"),
        ("v4kit.trace.store", "def f():\n    from v4kit.models.plan import plan"),
        ("v4kit.trace.store", "from importlib import import_module\nimport_module('v4kit.models')"),
        ("v4kit.trace.store", "from v4kit.arch import families"),
        ("v4kit.trace.store", "from v4kit.figures import barcode"),
        ("v4kit.trace.store", "import v4kit"),
        ("v4kit.engines.local", "from v4kit import load"),
        ("v4kit.engines.local", "from v4kit.widgets.play import Playground"),
        ("v4kit.core", "if TYPE_CHECKING:\n    from v4kit.trace import Trace"),
        ("v4kit.errors", "from .core import Record"),
        ("v4kit.figures.barcode", "import torch"),
        ("v4kit.figures.barcode", "def f():\n    import torch.nn as nn"),
        ("v4kit.figures.barcode", "import jinja2"),
        ("v4kit.recording.taps", "import plotly.graph_objects as go"),
        ("v4kit.cli", "from transformers import AutoConfig"),
        ("v4kit", "import torch"),
    ],
)
def test_planted_violation_is_caught(name: str, source: str) -> None:
    assert len(violations(Module(name, source))) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("v4kit.trace.store", "from .schema import SCHEMA\nfrom ..errors import V4KitError"),
        ("v4kit.trace.views", "def f():\n    from v4kit.figures import report"),
        ("v4kit.core", "if TYPE_CHECKING:\n    import torch"),
        ("v4kit.figures.report", "def f():\n    import jinja2"),
        ("v4kit.widgets.play", "from v4kit.engines.local import Model\nimport ipywidgets"),
        ("v4kit.cli", "import v4kit\nfrom v4kit.demo import run"),
        ("v4kit", "from importlib import import_module\nfrom v4kit.trace import Trace"),
    ],
)
def test_lawful_import_passes(name: str, source: str) -> None:
    assert violations(Module(name, source)) == []


EXISTING = {room_of(module.name) for module in package_modules()}


@pytest.mark.parametrize(
    ("package", "unloaded"),
    [
        pytest.param(
            package,
            unloaded,
            marks=pytest.mark.skipif(
                package != "v4kit" and room_of(package) not in EXISTING,
                reason=f"{package} is not written yet",
            ),
        )
        for package, unloaded in {
            "v4kit": {*HEAVY, *HEAVY_DEFERRED},
            "v4kit.core": {*HEAVY, *HEAVY_DEFERRED},
            "v4kit.trace": {"torch", "transformers", "plotly", "ipywidgets"},
            "v4kit.attention": {"torch", "transformers", "plotly", "ipywidgets"},
            "v4kit.analysis": {"torch", "transformers", "plotly", "ipywidgets"},
            "v4kit.figures": {"torch", "transformers", "ipywidgets", "jinja2"},
            "v4kit.recording": {"plotly", "ipywidgets", "transformers"},
        }.items()
    ],
)
def test_import_leaves_heavy_libraries_unloaded(
    package: str, unloaded: set[str], tmp_path: Path
) -> None:
    code = f"import json, sys, {package}; print(json.dumps(list(sys.modules)))"
    assert unloaded & set(json.loads(run_python(code, cwd=tmp_path))) == set()


SNAPSHOT = """
import builtins, logging, os, signal, sys, threading, warnings

def snapshot():
    return {
        "excepthook": sys.excepthook,
        "displayhook": sys.displayhook,
        "thread excepthook": threading.excepthook,
        "import": builtins.__import__,
        "interrupt": signal.getsignal(signal.SIGINT),
        "meta path": list(sys.meta_path),
        "path": list(sys.path),
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "log": (list(logging.root.handlers), logging.root.level),
        "threads": threading.active_count(),
    }

before = snapshot()
import v4kit
after = snapshot()
print([name for name in before if before[name] != after[name]])
"""


def test_import_has_no_side_effects(tmp_path: Path) -> None:
    assert run_python(SNAPSHOT, cwd=tmp_path).strip() == "[]"


STOPWATCH = """
from time import perf_counter
start = perf_counter()
import v4kit
print(perf_counter() - start)
"""


def test_import_is_quick(tmp_path: Path) -> None:
    # The interpreter's own start is not counted; the best of several forgives a busy machine.
    seconds = min(float(run_python(STOPWATCH, cwd=tmp_path)) for _ in range(7))
    assert seconds < 0.3
