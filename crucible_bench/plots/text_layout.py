"""Texts in a picture: made safe, measured, and cut to the room there is."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

__all__ = ["BOLD_SIZE", "clean", "counted", "cut", "named", "spread", "text_width", "widest"]

BOLD_SIZE = 13.2  # a bold text of 12 pixels is as wide as a plain one of this size
_JOINERS = {"\u200c", "\u200d"}  # without them, Persian words and many emoji fall apart

# Widths in em of DejaVu Sans, the widest of the usual system fonts: what fits in it fits in all of them.
_WIDTHS: dict[str, float] = {}
for _width, _chars in (
    (0.28, "ijlI'"),
    (0.32, "J .,|"),
    (0.34, ":;/\\"),
    (0.36, "-f"),
    (0.40, 'rt()[]!"'),
    (0.50, "_*°"),
    (0.53, "sz?"),
    (0.56, "cL"),
    (0.60, "kvxyF"),
    (0.64, "0123456789abdeghnopquEPSTYZ$"),
    (0.70, "ABCKRVXZ"),
    (0.79, "DGHNOQU&"),
    (0.85, "wM+=−±<>~×"),
    (1.0, "mW%@"),
):
    _WIDTHS.update(dict.fromkeys(_chars, _width))


def clean(text: str, most: int = 300) -> str:
    """One line of text that XML allows, with invisible characters (controls, surrogates, bidi marks) as escapes.

    A text longer than `most` characters is cut.
    """
    line = " ".join(str(text[: 4 * most]).split())
    shown = "".join(
        char if char.isprintable() or char in _JOINERS else char.encode("unicode_escape").decode() for char in line
    )
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def named(text: str) -> str:
    """A name within a sentence."""
    return clean(text, 80)


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 pair`, `1,000 pairs`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def text_width(text: str, size: float = 12) -> float:
    """About how many pixels a text takes at this font size, rather too many than too few."""
    return size * sum(map(_em, text))


def widest(texts: Iterable[str], size: float = 12) -> float:
    return max((text_width(text, size) for text in texts), default=0.0)


def _em(char: str) -> float:
    known = _WIDTHS.get(char)
    if known is not None:
        return known
    if unicodedata.combining(char) or char in _JOINERS:
        return 0.0
    return 1.05 if unicodedata.east_asian_width(char) in "WF" else 0.75


def cut(text: str, room: float, size: float = 12) -> str:
    """The text, or as much of its beginning as fits into `room` pixels, and an ellipsis."""
    if text_width(text, size) <= room:
        return text
    left = room / size - 1.0
    kept = 0
    for char in text:
        left -= _em(char)
        if left < 0:
            break
        kept += 1
    # Combining characters stay with the last letter.
    while kept and kept < len(text) and (unicodedata.combining(text[kept]) or text[kept] in _JOINERS):
        kept -= 1
    return text[:kept].rstrip() + "…"


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels, each as near to its own as `gap` between neighbours and the bounds allow.

    Where the bounds have no room for all, the gap shrinks.
    """
    count = len(places)
    if count > 1:
        gap = min(gap, (high - low) / (count - 1))
    order = sorted(range(count), key=lambda index: places[index])
    # Neighbours that are too near form a block, centred on the mean of its members' own places.
    blocks: list[tuple[list[int], float]] = []
    for index in order:
        members, centre = [index], min(max(places[index], low), high)
        while blocks:
            before, at = blocks[-1]
            if centre - gap * (len(members) - 1) / 2 - (at + gap * (len(before) - 1) / 2) >= gap - 1e-9:
                break
            blocks.pop()
            members = before + members
            centre = sum(places[member] for member in members) / len(members)
            half = gap * (len(members) - 1) / 2
            centre = min(max(centre, low + half), high - half)
        blocks.append((members, centre))
    found = [0.0] * count
    for members, centre in blocks:
        for number, member in enumerate(members):
            found[member] = centre + gap * (number - (len(members) - 1) / 2)
    return found
