"""Training a draft on stored hidden states: the loop, its schedule, its checkpoints and its evaluation."""
