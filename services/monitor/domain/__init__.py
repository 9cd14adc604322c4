"""What monitor knows of health: results, errors and ports."""
