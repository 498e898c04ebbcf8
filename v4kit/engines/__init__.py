"""Engines: what generates text and returns a Trace. Here: transformers in this process."""

from v4kit.engines.base import Step
from v4kit.engines.loading import load, wrap
from v4kit.engines.local import Model

__all__ = ["Model", "Step", "load", "wrap"]
