"""The tests themselves: no hub, no network beyond this machine."""

import os
import socket

import pytest
from pytest_socket import SocketConnectBlockedError


def test_hub_is_offline() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_only_loopback_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())
    # The socket is closed already: should the guard fail, no packet leaves.
    client = socket.socket()
    client.close()
    with pytest.raises(SocketConnectBlockedError):
        client.connect(("192.0.2.1", 9))
