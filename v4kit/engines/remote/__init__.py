"""Engines that serve a model elsewhere: vLLM and SGLang, as clients of their HTTP servers."""

from v4kit.engines.remote.connecting import connect
from v4kit.engines.remote.engine import Engine

__all__ = ["Engine", "connect"]
