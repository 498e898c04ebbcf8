"""Experiments that need a live model."""

from v4kit.experiments.attributing import attribution
from v4kit.experiments.importance import causal_importance
from v4kit.experiments.sinking import sink_link
from v4kit.experiments.validating import validate

__all__ = ["attribution", "causal_importance", "sink_link", "validate"]
