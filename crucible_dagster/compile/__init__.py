"""From an experiment to Dagster definitions: functions, no I/O."""
