"""Pictures of a Trace as plotly figures: pure functions, nothing shown, nothing written.

Every mark carries `customdata` whose first three columns are token (row of the trace), layer and
expert, −1 where a mark stands for none or for many; further columns are named by each function.
Token text is escaped, and what can't be seen in it is made visible.
"""

from v4kit.figures.agreement import routing_agreement
from v4kit.figures.barcode import token_barcode
from v4kit.figures.chosen import chosen_blocks
from v4kit.figures.comparison import compare
from v4kit.figures.distances import attention_distance
from v4kit.figures.importance import importance
from v4kit.figures.load import expert_load
from v4kit.figures.maps import routing_map
from v4kit.figures.placement import plan_placement
from v4kit.figures.seen_text import attention_text
from v4kit.figures.sinks import sink_strength
from v4kit.figures.specialization import specialization
from v4kit.figures.text import routing_text
from v4kit.figures.timeline import layer_timeline
from v4kit.figures.token_map import attention_map
from v4kit.figures.waterfall import attribution

__all__ = [
    "attention_distance",
    "attention_map",
    "attention_text",
    "attribution",
    "chosen_blocks",
    "compare",
    "expert_load",
    "importance",
    "layer_timeline",
    "plan_placement",
    "routing_agreement",
    "routing_map",
    "routing_text",
    "sink_strength",
    "specialization",
    "token_barcode",
]
