"""Widgets of our own: they are told what to show, and say what was done to them by messages."""
