"""Recorded answers: found, exported, and used to predict what other tree shapes would do."""
