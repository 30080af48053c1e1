"""What belongs to a run while it runs: folder and checkpoints, resources, spending, attempts, updates for observers."""
