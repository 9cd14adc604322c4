"""What the tool service does over all tenants: leases of running executions."""
