"""What the tool service reaches outside: sandboxes and the schema checker."""
