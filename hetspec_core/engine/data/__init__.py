"""Data: conversations, chat templates, stored hidden states, batches."""
