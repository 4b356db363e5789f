"""Data: conversations, chat templates, stored hidden states, batches. It knows no model, algorithm or training loop."""
