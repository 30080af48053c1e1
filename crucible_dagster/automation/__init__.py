"""What launches runs without a person, and what reports their failures."""
