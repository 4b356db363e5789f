"""Chat: a session with a worker that holds base and draft, its conversation, figures and comparisons."""

from hetspec_core.service.chat.answer import Answer, Piece
from hetspec_core.service.chat.comparison import Comparison, ComparisonResult, Divergence
from hetspec_core.service.chat.conversation import (
    ChatHistory,
    Turn,
    conversation_folder,
    pieces_of,
    saved_conversations,
)
from hetspec_core.service.chat.meters import Figures, SessionTotals, TimeSplit
from hetspec_core.service.chat.session import ChatSession
from hetspec_core.service.chat.setup import (
    SERVED_DRAFT,
    ChatConfig,
    backends,
    chat_config,
    with_draft,
    with_served_draft,
)
from hetspec_core.service.chat.tokens import Rejection, best_rejected, shown
from hetspec_core.service.drafts import DraftChoice, checkpoint_choices, draft_choices, draft_name, find_draft

__all__ = [
    "SERVED_DRAFT",
    "Answer",
    "ChatConfig",
    "ChatHistory",
    "ChatSession",
    "Comparison",
    "ComparisonResult",
    "Divergence",
    "DraftChoice",
    "Figures",
    "Piece",
    "Rejection",
    "SessionTotals",
    "TimeSplit",
    "Turn",
    "backends",
    "best_rejected",
    "chat_config",
    "checkpoint_choices",
    "conversation_folder",
    "draft_choices",
    "draft_name",
    "find_draft",
    "pieces_of",
    "saved_conversations",
    "shown",
    "with_draft",
    "with_served_draft",
]
