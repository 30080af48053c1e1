"""What starts runs by itself, and what tells of their failures."""
