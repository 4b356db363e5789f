"""Base and draft models: loading, composing, saving."""
