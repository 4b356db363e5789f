"""HetSpec's core: the desk (specs, presets, runs, service, CLI) and the engine (everything that imports torch)."""

__version__ = "0.1.0"
