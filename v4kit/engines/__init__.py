"""Engines: what generates text and returns a Trace. Here: transformers in this process."""

from v4kit.engines.base import Step
from v4kit.engines.local import Model, load, wrap

__all__ = ["Model", "Step", "load", "wrap"]
