"""pyproject.toml, constraints.txt, environment.yml and the changelog say the same."""

import re
import sys
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.house.imports import imports_of
from tests.house.sources import PYPROJECT, ROOT, package_modules

PROJECT = PYPROJECT["project"]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {
    extra: [Requirement(line) for line in lines]
    for extra, lines in PROJECT["optional-dependencies"].items()
}
PINNED_EXTRAS = ("parquet", "test")
"""The gpu extra is left to its ranges: what fits depends on the driver."""


@cache
def constraints() -> dict[str, Version]:
    """Package → the exact version that is tested."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pins}


@pytest.mark.parametrize(
    "requirement",
    [*RUNTIME, *(line for extra in PINNED_EXTRAS for line in EXTRAS[extra])],
    ids=str,
)
def test_constraint_lies_in_the_range(requirement: Requirement) -> None:
    assert requirement.specifier, f"{requirement} needs a range."
    pinned = constraints()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned)


def test_constraints_serve_every_machine() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not [version for version in constraints().values() if version.local]
    assert "://" not in text


def conda_lines() -> tuple[list[str], list[str]]:
    """What environment.yml asks of conda, and of pip."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [line for line in environment["dependencies"] if isinstance(line, str)]
    (pip,) = (line["pip"] for line in environment["dependencies"] if isinstance(line, dict))
    return conda, pip


def test_environment_names_what_the_project_names() -> None:
    conda, pip = conda_lines()
    assert f"python{PROJECT['requires-python']}" in conda
    assert "--constraint constraints.txt" in pip
    assert "--editable ." in pip
    named = {str(Requirement(line)) for line in pip if not line.startswith("-")}
    assert named == {str(requirement) for requirement in RUNTIME}


def test_every_imported_library_is_declared() -> None:
    requirements = chain(RUNTIME, EXTRAS["gpu"], EXTRAS["parquet"])
    declared = {canonicalize_name(requirement.name) for requirement in requirements}
    distributions = packages_distributions()
    undeclared = {
        f"{module.name}:{found.line} imports {library}"
        for module in package_modules()
        for found in imports_of(module)
        if (library := found.target.split(".")[0]) not in {*sys.stdlib_module_names, "v4kit"}
        if declared.isdisjoint(map(canonicalize_name, distributions.get(library, [library])))
    }
    assert not undeclared


def test_changelog_mentions_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(PROJECT['version'])}\]", changelog, re.MULTILINE)
