"""The terminal dashboard. It enters the core by `service`, `spec`, `events` and `errors` only, and never imports torch."""
