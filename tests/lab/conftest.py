"""JupyterLab for the tests of this folder: one server for the run, one page for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.lab import Lab
from tests.lab.server import Server, serving


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A JupyterLab with this checkout's extension."""
    with serving(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="session")
def lab_context(browser, lab_server: Server) -> Iterator[object]:
    """A browser that keeps JupyterLab's files; a proxy that is not there stands for the world."""
    context = browser.new_context(
        viewport={"width": 1400, "height": 1000},
        proxy={"server": "http://127.0.0.1:9", "bypass": "127.0.0.1"},
    )
    yield context
    context.close()


@pytest.fixture
def lab(lab_context, lab_server: Server, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """JupyterLab in a fresh page with a folder of its own, and no kernel left when it is over."""
    name = request.node.name.replace("[", "-").replace("]", "")
    lab = Lab(lab_context, lab_server, name)
    try:
        yield lab
    finally:
        lab.close()
        lab_server.end_sessions()
        lab_server.reset_settings()


@pytest.fixture(scope="session")
def small_trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 120 tokens in 6 layers."""
    from tests.figures.traces import routed

    return routed(120).save(tmp_path_factory.mktemp("trace") / "small.v4trace")
