"""Pieces of the chat page: words, figures and replays. They know the chat's session and draw nothing by themselves."""
