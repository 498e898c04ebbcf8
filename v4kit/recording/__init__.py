"""Hooks on a transformers model, buffers on its devices, and the way from both to a Trace."""

from v4kit.recording.attention_taps import AttentionEvent, IndexerEvent
from v4kit.recording.context import edits_of, record
from v4kit.recording.modules import find_attentions, find_indexers
from v4kit.recording.outputs import each_expert
from v4kit.recording.passes import PassRecorder
from v4kit.recording.recorder import RoutingRecorder
from v4kit.recording.routers import find_routers
from v4kit.recording.size import check_size, recorded_bytes
from v4kit.recording.streams import StreamRecorder, alphas
from v4kit.recording.taps import RouterEvent, attached, router_tap

__all__ = [
    "AttentionEvent",
    "IndexerEvent",
    "PassRecorder",
    "RouterEvent",
    "RoutingRecorder",
    "StreamRecorder",
    "alphas",
    "attached",
    "check_size",
    "each_expert",
    "edits_of",
    "find_attentions",
    "find_indexers",
    "find_routers",
    "record",
    "recorded_bytes",
    "router_tap",
]
