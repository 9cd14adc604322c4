"""PostgreSQL storage of identity, for one tenant; `storage.engine` is for what spans tenants."""
