"""The page of the chat: conversation, draft tree, meters; above it A/B, recorded answers and the tree simulator."""

from hetspec_tui.screens.chat.screen import ChatScreen

__all__ = ["ChatScreen"]
