"""Running again: resuming a run, replaying one, and why a result was reused."""
