"""Words and frozen records that every other part uses; no torch, no plotly."""

from v4kit.core.axes import (
    ATTENTION_KINDS,
    DENSE,
    DOCUMENT,
    EXPERT,
    HASH,
    HEAD,
    LAYER,
    NONE,
    ROUTING_KINDS,
    SLOT,
    SOURCE,
    STREAM,
    TOKEN,
    TOPK,
)
from v4kit.core.record import Record, to_record

__all__ = [
    "ATTENTION_KINDS",
    "DENSE",
    "DOCUMENT",
    "EXPERT",
    "HASH",
    "HEAD",
    "LAYER",
    "NONE",
    "ROUTING_KINDS",
    "SLOT",
    "SOURCE",
    "STREAM",
    "TOKEN",
    "TOPK",
    "Record",
    "to_record",
]
