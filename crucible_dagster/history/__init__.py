"""What ran, read from Dagster's own storage."""
