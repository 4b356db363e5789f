"""Layouts of draft directories: HetSpec's own, and those of the programs that drafts come from and go to.

Each turns files into a `StoredDraft`, and some a `StoredDraft` into files. They know names, shapes and configuration
keys; no modules, no base.
"""
