"""Chat: a session with a worker that holds base and draft, its conversation, figures and comparisons."""
