"""Measurements of HetSpec, one module each. They print and assert no time; `docs/lab/LOG.md` keeps what they said."""
