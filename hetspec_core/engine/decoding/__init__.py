"""Speculative decoding: propose a tree, verify it, commit. The readable reference path.

It knows a base and a draft through `BaseLM` and `DraftLM`; it does not know training, data, files or who draws trees.
"""
