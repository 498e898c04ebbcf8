"""The project's own files, as the house tests read them."""

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Module:
    """One Python module of the package."""

    name: str
    """Dotted, under the name it is installed as."""
    source: str
    """Its text."""
    is_package: bool = False
    """Whether it is an ``__init__``."""

    @property
    def tree(self) -> ast.Module:
        """The module, parsed."""
        return ast.parse(self.source, self.name)


def package_modules() -> list[Module]:
    """All modules of v4kit and v4kit.widgets that exist, sorted by name."""
    folders = {"v4kit": ROOT / "v4kit", "v4kit.widgets": ROOT / "widgets"}
    modules = [
        _module(path, folder, package)
        for package, folder in folders.items()
        for path in folder.rglob("*.py")
    ]
    return sorted(modules, key=lambda module: module.name)


def _module(path: Path, folder: Path, package: str) -> Module:
    parts = [package, *path.relative_to(folder).with_suffix("").parts]
    is_package = parts[-1] == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    return Module(name, path.read_text(encoding="utf-8"), is_package)


def tracked_files() -> list[Path]:
    """Files that are, or would be, committed; in an unpacked archive without git, all."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        paths = [path for path in ROOT.rglob("*") if ".venv" not in path.parts]
    else:
        paths = [ROOT / line for line in listing.stdout.splitlines()]
    return sorted(path for path in paths if path.is_file())


def tracked_texts() -> Iterator[tuple[str, str]]:
    """Path below the root, and text, of every tracked file that is text."""
    for path in tracked_files():
        data = path.read_bytes()
        if b"\0" not in data:
            yield path.relative_to(ROOT).as_posix(), data.decode("utf-8", errors="replace")


def run_python(code: str, *, cwd: Path) -> str:
    """What ``code`` prints in a fresh interpreter that sees the checkout from elsewhere."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
