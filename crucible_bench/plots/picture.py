"""A picture as the reports hold it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NARROW", "WIDE", "Picture"]

WIDE = 720.0
NARROW = 350.0
"""The two widths of a chart, in pixels: for a page, and for a phone."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawing.

    `svg` is a whole SVG document that needs nothing else: no script, no address, its style inside, and no ids, so that
    several may stand in one page. HTML reports hold it as it is: let only the functions of this package make it. `alt`
    describes the picture in words, numbers included; it is one line of plain text. `caption` says how to read it.
    """

    svg: str
    alt: str
    caption: str | None = None
