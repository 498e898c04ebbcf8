"""`connect`: the way to an `Engine`."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from v4kit.engines.remote.adapters import ADAPTERS, Adapter
from v4kit.engines.remote.answers import Served, field
from v4kit.engines.remote.engine import Engine
from v4kit.engines.remote.http import Transport
from v4kit.errors import EngineError, InputError, ModelNotFound
from v4kit.models.identity import Identity, identify, tables_of

if TYPE_CHECKING:
    from v4kit.engines.local import Model

KEY = "V4KIT_API_KEY"
"""Environment variable with the key of a server."""


def connect(
    url: str,
    *,
    engine: str = "auto",
    model: str | Path | Model | None = None,
    name: str | None = None,
    api_key: str | None = None,
    timeout: float = 600.0,
    max_bytes: int = 256 * 2**20,
) -> Engine:
    """Return an `Engine` that runs its model on a vLLM or SGLang server.

    The server must return routed experts; `engine.check()` tells whether it does, and what to
    start it with if not. Prompts are sent as token ids, so the model's tokenizer and config are
    read on this machine.

    Args:
        url: Address of the server, such as "http://host:8000".
        engine: "vllm" or "sglang"; "auto" asks the server.
        model: What the server serves: a folder or hub id with its config and tokenizer, or a
            `Model` that is loaded here. None: what the server says that it loaded. A folder or a
            Model also tells the experts of hash layers, which SGLang does not.
        name: What the server calls the model to ask. None: the one that `model` names, or the
            only one that it serves.
        api_key: Key of the server; None takes that of the environment's V4KIT_API_KEY, if any. It
            is sent to this server only and kept nowhere.
        timeout: Seconds to wait for an answer to begin, or go on.
        max_bytes: Largest answer that is read, or largest piece of a streamed one.

    Raises:
        InputError: The address, the key or a setting can't be used.
        EngineError: The server can't be reached, is none of these, or serves several models and
            it is not clear which is meant.
        ModelNotFound: Config or tokenizer of its model are not to be had; give `model`.
        UnsupportedModel: Its model is of a family that the kit can't read.
    """
    if engine not in ("auto", *ADAPTERS):
        raise InputError(f"engine is 'auto', {', '.join(ADAPTERS)}; given was {engine!r}.")
    if name is not None and not isinstance(name, str):
        raise InputError(f"name is what the server calls its model; given was {name!r}.")
    key = api_key if api_key is not None else os.environ.get(KEY)
    transport = Transport(url, key, timeout=timeout, max_bytes=max_bytes)
    try:
        kind = ADAPTERS[_kind(transport) if engine == "auto" else engine]
        wanted = _names(model) if name is None else (name,)
        adapter: Adapter = kind(transport, wanted, strictly=name is not None)
        served = adapter.served()
        return Engine(transport, adapter, served, _identity(transport, served, model))
    except BaseException:
        transport.close()
        raise


def _kind(transport: Transport) -> str:
    """Return which engine a server runs, by what it says of its models, or by its own paths."""
    owner = field(transport.get("/v1/models"), "data", 0, "owned_by")
    if isinstance(owner, str) and owner in ADAPTERS:
        return owner
    for path, name in (("/server_info", "sglang"), ("/version", "vllm")):
        try:
            transport.get(path)
        except EngineError:
            continue
        return name
    raise EngineError(
        f"{transport.url} does not say whether it is vLLM or SGLang. "
        'Tell it: connect(…, engine="vllm").'
    )


def _names(model: Any) -> tuple[str, ...]:
    """Return what a server may call a model that is given as `model`."""
    if hasattr(model, "hf"):
        return (str(model.meta["model"]),)
    if not isinstance(model, (str, Path)):
        return ()
    return (str(model), PurePath(model).name)


def _identity(transport: Transport, served: Served, model: Any) -> Identity:
    if hasattr(model, "hf"):
        return Identity(model.hf.config, model.tokenizer, tables_of(model.routers))
    if model is not None:
        return identify(model)
    # Hidden before the hub is asked for it.
    source = transport.hide(served.source)
    try:
        return identify(source)
    except ModelNotFound as error:
        raise ModelNotFound(
            f"The server loaded {source!r}, which is not to be had here: {error} "
            "Give connect(…, model=…): a folder or hub id with its config and tokenizer."
        ) from error
