"""Traces in memory and on disk: every analysis gives the same of both."""

import pytest

import v4kit


@pytest.fixture(params=["in memory", "on disk"])
def kept(request, tmp_path):
    """What keeps a trace: as it is, or saved and opened again."""

    def keep(trace):
        if request.param == "in memory":
            return trace
        return v4kit.open_trace(trace.save(tmp_path / "kept.v4trace"))

    return keep
