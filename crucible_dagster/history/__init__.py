"""The history of runs, read from Dagster's own storage."""
