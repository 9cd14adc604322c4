"""River, a task queue in Go on PostgreSQL, on the same PostgreSQL programs and with the same durability as the mesh."""
