"""Families of mixture-of-experts models and the architecture of one model, as data."""

from v4kit.arch.architecture import Architecture, Layer
from v4kit.arch.families import FAMILIES, Family, describe, family_of

__all__ = ["FAMILIES", "Architecture", "Family", "Layer", "describe", "family_of"]
