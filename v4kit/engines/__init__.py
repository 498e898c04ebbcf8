"""Engines: what generates text and returns a Trace, in this process or on a server."""

from v4kit.engines.base import Step
from v4kit.engines.loading import load, wrap
from v4kit.engines.local import Model
from v4kit.engines.remote import Engine, connect

__all__ = ["Engine", "Model", "Step", "connect", "load", "wrap"]
