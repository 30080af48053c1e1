"""The lock of an experiment: what was declared before the data were seen."""

from __future__ import annotations

from pydantic import Field

from crucible_core.ir.fields import Name, Node, Options, Text

__all__ = ["Lock"]


class Lock(Node):
    """What `crucible lock` wrote beside an experiment file. A run records it, and says what differs from it."""

    version: int = Field(default=1, strict=True, ge=1, le=1)
    """The version of the format of this file."""
    experiment: Name
    """The id of the experiment."""
    locked: Text
    """When it was written, UTC."""
    hash: Text
    """SHA-256 of `comparisons` and `terms`."""
    comparisons: dict[Text, Name]
    """Metric -> the stage whose comparison it gets."""
    terms: Options
    """Seed, trials, options of every stage, gates: what was declared."""
