"""Plain values: immutable collections, equality, JSON, wording."""

__all__ = ["MASK", "MAX_DEPTH"]

MASK = "**********"
"""What stands in the place of a secret; pydantic's own."""

MAX_DEPTH = 50
"""How deep a value may be nested to be shown."""
