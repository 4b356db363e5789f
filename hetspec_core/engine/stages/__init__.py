"""Stages: each wires parts together for one kind of run, and is short."""
