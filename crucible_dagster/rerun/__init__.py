"""Running again: resuming a run, replaying a run, and explaining why a result was reused."""
