"""Engines on loopback for the tests that want some."""

import pytest

import v4kit
from tests import zoo
from tests.engines.serving import V4
from tests.engines.stand_in import StandIn

CONNECTING = ("timeout", "max_bytes", "api_key")


@pytest.fixture
def serve():
    """Start engines; they stop when the test ends."""
    running = []

    def start(kind, name=V4, *, model="same", **options):
        connecting = {key: options.pop(key) for key in CONNECTING if key in options}
        server = StandIn(kind(zoo.random_model(name), **options))
        running.append(server)
        server.__enter__()
        known = zoo.random_model(name) if model == "same" else model
        if known is not None:
            connecting["model"] = known
        return v4kit.connect(server.url, **connecting), server

    yield start
    for server in running:
        server.__exit__()
