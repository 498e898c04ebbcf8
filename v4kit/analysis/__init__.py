"""Analyses: functions of traces that return xarray Datasets with named axes; no torch, no plotly.

Every result carries the routing kind of its layers, because a hash-routed layer tells about the
text and not about the router, and what chance would give beside what was found.
"""

from v4kit.analysis.comparing import overlap, paired_overlap, risk_difference
from v4kit.analysis.load import expert_load, load_statistics
from v4kit.analysis.pairing import Block, Pairs, pair_tokens
from v4kit.analysis.succession import cross_layer, repetition
from v4kit.analysis.together import coactivation

__all__ = [
    "Block",
    "Pairs",
    "coactivation",
    "cross_layer",
    "expert_load",
    "load_statistics",
    "overlap",
    "pair_tokens",
    "paired_overlap",
    "repetition",
    "risk_difference",
]
