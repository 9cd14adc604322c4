"""Tools and the effect ledger, in PostgreSQL."""
