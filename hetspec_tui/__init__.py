"""The terminal dashboard. It never imports torch.

It enters the core by `service`, `spec`, `events`, `errors` and the ground files only.
"""
