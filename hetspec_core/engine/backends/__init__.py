"""Who runs base and draft in a chat, behind one interface. A backend is one file and one card."""
