"""Plain values: immutable collections, equality, JSON, wording."""
