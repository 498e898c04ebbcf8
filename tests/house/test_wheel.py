"""The wheel is whole: built without network, installed alone elsewhere, imported from there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.house.sources import PYPROJECT, ROOT, tracked_files

EXTENSION = ROOT / "widgets" / "labextension"
SHIPPED = {
    f"v4kit/{folder}{path.relative_to(ROOT / top).as_posix()}"
    for top, folder in {"v4kit": "", "widgets": "widgets/"}.items()
    for path in tracked_files()
    if path.is_relative_to(ROOT / top) and not path.is_relative_to(EXTENSION)
}
"""What the package in the wheel must hold, by the names that are installed."""
PLACED = {
    f"share/jupyter/labextensions/v4kit/{path.relative_to(EXTENSION).as_posix()}"
    for path in tracked_files()
    if path.is_relative_to(EXTENSION)
}
"""What the wheel must place where JupyterLab looks, below the environment's folder."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: what an earlier build left behind would be packed too."""
    checkout, output = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for path in tracked_files():
        copy = checkout / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    python("-m", "build", "--wheel", "--no-isolation", "--outdir", output, checkout)
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel and nothing else."""
    target = tmp_path_factory.mktemp("site")
    python("-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel)
    return target


def python(*arguments: object) -> str:
    """What Python prints when it is run isolated from environment and working directory."""
    command = [sys.executable, "-I", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel_holds_what_the_folders_hold(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    files = {name for name in names if not name.split("/")[0].endswith((".dist-info", ".data"))}
    missing = SHIPPED - files
    assert not missing, (
        f"missing: {sorted(missing)}. Are packages and package-data in pyproject.toml complete?"
    )
    assert not files - SHIPPED


def test_wheel_places_the_extension(wheel: Path) -> None:
    names = [name.partition(".data/data/")[2] for name in ZipFile(wheel).namelist()]
    assert set(filter(None, names)) == PLACED


def test_jupyterlab_lists_the_installed_extension(installed: Path) -> None:
    """The environment is a folder beside; JupyterLab is told of it as of any other prefix."""
    environment = {**os.environ, "JUPYTER_PATH": str(installed / "share" / "jupyter")}
    command = [sys.executable, "-m", "jupyterlab.labextensions", "list"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, cwd=installed
    )
    (line,) = (line for line in (done.stdout + done.stderr).splitlines() if " v4kit " in line)
    assert f"v{PYPROJECT['project']['version']}" in line
    assert "enabled" in line
    assert "OK" in line
    assert "X" not in line


def test_wheel_holds_no_tests(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    assert not [name for name in names if "test" in name.lower() or name.startswith("training")]
    assert {name.split("/")[0].split("-")[0] for name in names} == {"v4kit"}


def test_wheel_is_imported_from_elsewhere(installed: Path, tmp_path: Path) -> None:
    code = f"""
import json, os, sys
os.chdir({str(tmp_path)!r})
sys.path.insert(0, {str(installed)!r})
import v4kit, v4kit.widgets
from importlib.resources import files
typed = files("v4kit.widgets").joinpath("py.typed").is_file()
print(json.dumps([v4kit.__file__, v4kit.widgets.__file__, v4kit.__version__, typed]))
"""
    library, widgets, version, typed = json.loads(python("-c", code))
    assert Path(library) == installed / "v4kit" / "__init__.py"
    assert Path(widgets) == installed / "v4kit" / "widgets" / "__init__.py"
    assert version in installed.joinpath(f"v4kit-{version}.dist-info", "METADATA").read_text()
    assert typed


@pytest.mark.skipif(
    not (ROOT / "v4kit" / "models" / "tiny").is_dir(), reason="no tiny model is shipped yet"
)
def test_wheel_brings_the_tiny_model(installed: Path) -> None:
    tiny = installed / "v4kit" / "models" / "tiny"
    (weights,) = tiny.glob("*.safetensors")
    assert weights.stat().st_size <= 20 * 1024**2
    assert (tiny / "config.json").is_file()
    assert (tiny / "tokenizer.json").is_file()


@pytest.mark.skipif(
    not (ROOT / "v4kit" / "models" / "tiny").is_dir(), reason="no tiny model is shipped yet"
)
@pytest.mark.slow
def test_installed_package_loads_its_model(installed: Path, tmp_path: Path) -> None:
    code = f"""
import os, sys
os.chdir({str(tmp_path)!r})
sys.path.insert(0, {str(installed)!r})
import v4kit
trace = v4kit.load().generate("One day", max_new_tokens=4)
assert v4kit.__file__.startswith({str(installed)!r})
print(len(trace.tokens))
"""
    assert int(python("-c", code)) > 4
