"""Standardized effect sizes, and the words for how large they are."""
