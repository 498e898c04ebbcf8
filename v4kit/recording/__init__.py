"""Hooks on a transformers model, buffers on its devices, and the way from both to a Trace."""

from v4kit.recording.context import record
from v4kit.recording.recorder import RoutingRecorder
from v4kit.recording.routers import find_routers
from v4kit.recording.taps import RouterEvent, attached, router_tap

__all__ = ["RouterEvent", "RoutingRecorder", "attached", "find_routers", "record", "router_tap"]
