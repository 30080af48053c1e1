"""The programs of a deployment: Dagster's own, with additions so that they can run unattended."""
