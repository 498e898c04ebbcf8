"""The façade: what ``import v4kit`` offers, no more and no less."""

import importlib
import json
from pathlib import Path

import pytest

import v4kit
from tests.house.sources import PYPROJECT, package_modules, run_python

PACKAGES = [
    module.name
    for module in package_modules()
    if module.is_package and "__all__" in module.source and module.name.count(".") <= 1
]


def public(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith("_")]


@pytest.mark.parametrize("package", PACKAGES)
def test_all_can_be_imported(package: str) -> None:
    module = importlib.import_module(package)
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        getattr(module, name)


def test_all_is_sorted() -> None:
    assert list(v4kit.__all__) == sorted(v4kit.__all__)


def test_dir_agrees_with_all(tmp_path: Path) -> None:
    code = "import json, v4kit; print(json.dumps([v4kit.__all__, dir(v4kit)]))"
    names, listed = json.loads(run_python(code, cwd=tmp_path))
    assert public(listed) == public(names)


def test_dir_does_not_change_with_use() -> None:
    for name in v4kit.__all__:
        getattr(v4kit, name)
    assert public(dir(v4kit)) == public(v4kit.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        v4kit.no_such_name  # noqa: B018


def test_version_agrees_with_the_project() -> None:
    assert v4kit.__version__ == PYPROJECT["project"]["version"]
