"""Plain values: immutable collections, equality, JSON, wording."""

__all__ = ["MASK"]

MASK = "**********"
"""What stands in the place of a secret; pydantic's own."""
