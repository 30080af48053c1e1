"""What belongs to one run while it runs: its folder and checkpoints, resources, spending, and updates for observers."""
