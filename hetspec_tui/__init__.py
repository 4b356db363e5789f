"""The terminal dashboard. It enters the core by `service`, `spec`, `events` and `errors` only; it never meets torch."""
