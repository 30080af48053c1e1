"""What follows from a comparison: verdicts against a margin, rankings, the set that may be best."""
