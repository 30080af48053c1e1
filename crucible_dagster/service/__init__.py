"""What a deployment starts: Dagster's own programs, with what they lack to be left alone."""
