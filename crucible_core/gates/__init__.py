"""What the gates of an experiment say of a run."""
