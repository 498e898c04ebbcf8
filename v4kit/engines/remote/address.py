"""Where a server is, and its key: checked before anything is sent."""

from __future__ import annotations

import ipaddress
import json
from numbers import Real
from typing import Any

import httpx

from v4kit.errors import InputError

_LONGEST = 1e6
"""Seconds that a socket may be told to wait."""


def server_url(given: Any) -> str:
    """Return the address of a server, without what its paths begin with.

    Raises:
        InputError: It is no such address. What was given is not shown where it may hold a password.
    """
    if not isinstance(given, str) or not given.strip():
        raise InputError(
            f'connect takes an address such as "http://host:8000"; given was {given!r}.'
        )
    parts = _parts(given.strip() if "://" in given else f"http://{given.strip()}")
    if parts is None or parts.userinfo or parts.query or parts.fragment:
        raise InputError(
            'connect takes an address such as "http://host:8000", without user or password and '
            "without ? or #; give a key as api_key."
        )
    return str(parts).rstrip("/").removesuffix("/v1")


def is_this_machine(url: str) -> bool:
    """Return whether an address is one of the machine that asks."""
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def seconds(timeout: Any) -> float:
    """Return a time to wait.

    Raises:
        InputError: It is no number, or none that can be waited for.
    """
    is_number = isinstance(timeout, Real) and not isinstance(timeout, bool)
    if not is_number or not 0 < timeout <= _LONGEST:
        raise InputError(
            f"timeout is a number of seconds above 0, a million at most; given was {timeout!r}."
        )
    return float(timeout)


def _parts(url: str) -> httpx.URL | None:
    """Return the parts of an address; None if no request can be made to it."""
    try:
        parts = httpx.URL(url)
        parts.raw_host.decode("ascii").encode("idna")
    except (httpx.InvalidURL, UnicodeError):
        return None
    port = 1 if parts.port is None else parts.port
    whole = parts.host and not any(character.isspace() for character in url)
    usable = whole and parts.scheme in ("http", "https") and 0 < port < 2**16
    return parts if usable else None


class Secret:
    """The key of a server: sent with every request, shown nowhere."""

    def __init__(self, key: Any) -> None:
        """Take a key, or None.

        Raises:
            InputError: It can't be sent; the message does not tell it.
        """
        if key is not None and not isinstance(key, str):
            raise InputError(f"api_key is text; given was {type(key).__name__}.")
        self._key = (key or "").strip()
        if not all(" " <= character <= "~" for character in self._key):
            raise InputError(
                "api_key has characters that can't be sent: printable ASCII is needed. Copy the "
                "key anew; it is not shown here."
            )
        # As it is, and as Python and JSON write it within quotes.
        written = {self._key, repr(self._key)[1:-1], json.dumps(self._key)[1:-1]}
        self._forms = sorted(written - {""}, key=len, reverse=True)

    def __repr__(self) -> str:
        return "Secret(…)"

    @property
    def headers(self) -> dict[str, str]:
        """What is sent with a request."""
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def hide(self, text: str) -> str:
        """Return a text without the key, which servers like to say back."""
        for form in self._forms:
            text = text.replace(form, "…")
        return text
