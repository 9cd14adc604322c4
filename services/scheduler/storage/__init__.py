"""The tables, and set-based statements on them."""
