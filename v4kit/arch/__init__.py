"""Families of mixture-of-experts models and the architecture of one model, as data."""

from v4kit.arch.architecture import Architecture, Layer
from v4kit.arch.families import FAMILIES, Family, Mixing, family_of, refusal
from v4kit.arch.from_config import describe, language_part

__all__ = [
    "FAMILIES",
    "Architecture",
    "Family",
    "Layer",
    "Mixing",
    "describe",
    "family_of",
    "language_part",
    "refusal",
]
