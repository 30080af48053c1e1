"""Plain values: immutable collections, equality, JSON, wording."""

# Modules by the names they had before, until version 1.0.
__path__.append(f"{__path__[0]}/../moved/values")

__all__ = ["MASK", "MAX_DEPTH"]

MASK = "**********"
"""What stands in the place of a secret; pydantic's own."""

MAX_DEPTH = 50
"""How deep a value may be nested to be shown."""
