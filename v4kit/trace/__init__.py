"""The Trace, its schema and its store; needs neither torch nor a model."""

from v4kit.trace.build import import_routing, make_trace
from v4kit.trace.joining import concat
from v4kit.trace.trace import Trace, open_trace

__all__ = ["Trace", "concat", "import_routing", "make_trace", "open_trace"]
