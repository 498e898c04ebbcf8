"""Every lesson runs top to bottom, and what is committed of it is small and impersonal."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.house.sources import ROOT, tracked_files
from tests.house.test_house_rules import MACHINE

NOTEBOOKS = [path for path in tracked_files() if path.suffix == ".ipynb"]
LESSONS = [path for path in NOTEBOOKS if path.is_relative_to(ROOT / "notebooks")]
LARGEST = 2 * 1024**2


@pytest.mark.slow
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_lesson_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources=resources,
        store_widget_state=False,
    ).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebook_is_small_and_impersonal(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text) <= LARGEST
    assert not MACHINE.search(text)
    notebook = nbformat.reads(text, as_version=4)
    assert "widgets" not in notebook.metadata, "saved widget state weighs megabytes"
    errors = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]
    assert not errors
