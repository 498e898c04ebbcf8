"""Experiments that need a live model."""

from v4kit.experiments.validate import validate

__all__ = ["validate"]
