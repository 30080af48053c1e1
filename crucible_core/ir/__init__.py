"""The experiment file: its models, and how it is read."""
