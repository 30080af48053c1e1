"""Running again: going on where a run stopped, replaying one, and why a result was used again."""
