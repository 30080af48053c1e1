"""A picture as commands of TikZ, made from the few shapes of its SVG."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from xml.etree import ElementTree

from crucible_bench.plots.picture import Picture
from crucible_bench.plots.svg import COLOURS

__all__ = ["tikz_of"]

_POINTS: Final = 0.75  # a pixel in points of print
_SVG: Final = "{http://www.w3.org/2000/svg}"
_COMMAND: Final = re.compile(r"([MLHVhZ])([-\d. ]*)")
_ANCHORS: Final = {"start": "base west", "middle": "base", "end": "base east"}


def tikz_of(picture: Picture, write: Callable[[str], str]) -> str:
    """The picture as an environment `tikzpicture`, in the colours for light paper; `write` escapes its texts.

    720 pixels are 540 points.
    """
    root = ElementTree.fromstring(picture.svg)  # noqa: S314  # written by the Drawing
    colours = "".join(
        rf"\definecolor{{crucible-{name}}}{{HTML}}{{{light.removeprefix('#').upper()}}}"
        for name, (light, _) in COLOURS.items()
    )
    lines = [rf"\begin{{tikzpicture}}[x={_POINTS}pt,y=-{_POINTS}pt]", colours]
    for element in root:
        if element.tag == f"{_SVG}path":
            lines.append(_path(element))
        elif element.tag == f"{_SVG}text":
            lines.append(_text(element, write))
    return "\n".join([*lines, r"\end{tikzpicture}"])


def _path(element: ElementTree.Element) -> str:
    classes = element.get("class", "").split()
    colour = next(f"crucible-{name}" for name in classes if name in COLOURS)
    width = _POINTS * float(element.get("stroke-width", "1"))
    opacity = f",opacity={element.get('opacity')}" if element.get("opacity") else ""
    data = element.get("d", "")
    if "dots" in classes:
        places = re.findall(r"M([-\d.]+) ([-\d.]+)", data)
        circles = "".join(f" ({x},{y}) circle[radius={width / 2:.3g}pt]" for x, y in places)
        return rf"\fill[{colour}{opacity}]{circles};"
    drawn = _outline(data)
    if "fill" in classes:
        return rf"\fill[{colour}{opacity}]{drawn};"
    dash = ""
    if pattern := element.get("stroke-dasharray"):
        lengths = [f"{_POINTS * float(length):.3g}pt" for length in pattern.split()]
        words = ("on", "off") * len(lengths)
        dash = ",dash pattern=" + " ".join(f"{word} {length}" for word, length in zip(words, lengths, strict=False))
    inside = ",fill=white" if "open" in classes else ""
    return rf"\draw[{colour},line width={width:.3g}pt{dash}{inside}{opacity}]{drawn};"


def _outline(data: str) -> str:
    text, x, y = "", "0", "0"
    for command, numbers in _COMMAND.findall(data):
        match command:
            case "M" | "L":
                x, y = numbers.split()
            case "H":
                x = numbers.strip()
            case "V":
                y = numbers.strip()
        text += "--cycle" if command == "Z" else f"{' ' if command == 'M' else '--'}({x},{y})"
    return text


def _text(element: ElementTree.Element, write: Callable[[str], str]) -> str:
    classes = element.get("class", "").split()
    colour = next(f"crucible-{name}" for name in classes if name in COLOURS)
    # Larger than in the SVG, whose room is measured for wider letters than those of TeX.
    size = "9.5}{11" if "small" in classes else "10.5}{12"
    weight = r"\bfseries" if "bold" in classes else ""
    font = rf"\sffamily{weight}\fontsize{{{size}}}\selectfont"
    anchor = _ANCHORS[element.get("text-anchor", "start")]
    paper = ",fill=white" if "halo" in classes else ""
    shown = (element.text or "") + "".join(child.tail or "" for child in element)
    place = f"({element.get('x')},{element.get('y')})"
    return rf"\node[anchor={anchor},inner sep=0pt,text={colour},font={font}{paper}] at {place} {{{write(shown)}}};"
