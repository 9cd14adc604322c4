"""PostgreSQL: pools, transactions under one of a service's two roles, migrations."""
