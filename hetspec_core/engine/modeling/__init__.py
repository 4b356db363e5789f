"""Base and draft models: loading, composing, saving. It knows neither losses nor trees nor files of training data."""
