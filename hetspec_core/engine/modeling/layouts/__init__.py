"""Layouts of draft directories: HetSpec's own, and those of programs that drafts are imported from and exported to.

Each turns files into a `StoredDraft`, and some a `StoredDraft` into files.
"""
