"""Grids of runs: what a sweep file asks for, the runs that come of it, and which of them are there already."""
