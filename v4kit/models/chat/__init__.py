"""DeepSeek-V4's prompt format: messages → prompt, completion → reply, tokens → roles.

It follows the description published with the checkpoints; nothing of a checkpoint is executed.
Other families have a template of their own, which transformers fills in.
"""

from v4kit.models.chat.encode import encode
from v4kit.models.chat.parse import Reply, ToolCall, parse
from v4kit.models.chat.roles import Roles, roles
from v4kit.models.chat.template import can_chat, encode_by_template
from v4kit.models.chat.vocabulary import (
    ASSISTANT,
    BOS,
    EFFORTS,
    END_THINK,
    EOS,
    MAX_CONTEXT,
    THINK,
    USER,
    edition_of,
)

__all__ = [
    "ASSISTANT",
    "BOS",
    "EFFORTS",
    "END_THINK",
    "EOS",
    "MAX_CONTEXT",
    "THINK",
    "USER",
    "Reply",
    "Roles",
    "ToolCall",
    "can_chat",
    "edition_of",
    "encode",
    "encode_by_template",
    "parse",
    "roles",
]
