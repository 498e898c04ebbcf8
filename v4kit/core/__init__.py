"""Words and frozen records that every other part uses; no torch, no plotly."""

from v4kit.core.axes import (
    ATTENTION_KINDS,
    BLOCK_SOURCE,
    DENSE,
    DOCUMENT,
    EXPERT,
    HASH,
    HEAD,
    LAYER,
    NONE,
    POSITION,
    ROUTING_KINDS,
    SLOT,
    SOURCE,
    STREAM,
    TOKEN,
    TOPK,
    WINDOW_SOURCE,
)
from v4kit.core.record import Record, to_record

__all__ = [
    "ATTENTION_KINDS",
    "BLOCK_SOURCE",
    "DENSE",
    "DOCUMENT",
    "EXPERT",
    "HASH",
    "HEAD",
    "LAYER",
    "NONE",
    "POSITION",
    "ROUTING_KINDS",
    "SLOT",
    "SOURCE",
    "STREAM",
    "TOKEN",
    "TOPK",
    "WINDOW_SOURCE",
    "Record",
    "to_record",
]
