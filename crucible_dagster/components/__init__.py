"""Components for Dagster's `dg`."""
