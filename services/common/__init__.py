"""What every service shares: server, channels, database, telemetry, settings, errors. It imports no service."""
