"""The vocabulary of axes and kinds, defined once."""

from __future__ import annotations

TOKEN = "token"
LAYER = "layer"
SLOT = "slot"
"""0 … k−1: the experts chosen for one token."""
EXPERT = "expert"
HEAD = "head"
SOURCE = "source"
"""One recorded attention source."""
STREAM = "stream"
"""One of the hyper-connected residual streams."""
DOCUMENT = "document"
POSITION = "position"
"""A token's place within its document, from 0."""

HASH = "hash"
"""Routing kind: the experts follow from the token id alone."""
TOPK = "topk"
"""Routing kind: the router chooses."""
DENSE = "dense"
"""Routing kind: the layer has no router."""
ROUTING_KINDS = (HASH, TOPK, DENSE)
ATTENTION_KINDS = ("sliding", "csa", "hca", "dsa", "full", "other")
WINDOW_SOURCE = 0
"""Kind of an attention source that is a single token, seen as it is."""
BLOCK_SOURCE = 1
"""Kind of an attention source that is a block of tokens, compressed into one entry."""

NONE = -1
"""No expert, no position, no token: never 0."""
