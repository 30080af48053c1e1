"""The commands that read Dagster's storage, and the runner behind `crucible run --dagster`."""
