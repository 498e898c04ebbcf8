"""Analyses: functions of traces that return xarray Datasets with named axes; no torch, no plotly.

Every result carries the routing kind of its layers, because a hash-routed layer tells about the
text and not about the router, and what chance would give beside what was found. Each variable says
what it holds in `attrs["meaning"]`.

What counts is every token that was fed to the model, special tokens too; how many of these there
are stands in the result's `attrs["special_tokens"]`. All of one kind are taken out beforehand, and
what is left is analysed as it stood in its document: `trace[~trace.tokens["special"]]`.
"""

from v4kit.analysis.aligned import alignment
from v4kit.analysis.comparing import overlap, paired_overlap, risk_difference
from v4kit.analysis.confidence import confidence
from v4kit.analysis.domains import domain_specialization
from v4kit.analysis.hashing import hash_audit
from v4kit.analysis.load import expert_load, load_matched, load_statistics
from v4kit.analysis.marked import npmi
from v4kit.analysis.pairing import Block, Pairs, pair_tokens
from v4kit.analysis.paths import paths
from v4kit.analysis.saliency import saliency, super_experts
from v4kit.analysis.succession import cross_layer, repetition
from v4kit.analysis.together import coactivation
from v4kit.analysis.vocabulary import vocabulary_specialization

__all__ = [
    "Block",
    "Pairs",
    "alignment",
    "coactivation",
    "confidence",
    "cross_layer",
    "domain_specialization",
    "expert_load",
    "hash_audit",
    "load_matched",
    "load_statistics",
    "npmi",
    "overlap",
    "pair_tokens",
    "paired_overlap",
    "paths",
    "repetition",
    "risk_difference",
    "saliency",
    "super_experts",
    "vocabulary_specialization",
]
