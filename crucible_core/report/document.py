"""The parts of a document: plain data that every renderer knows how to write, and escapes."""

from __future__ import annotations

from dataclasses import dataclass

from crucible_bench.plots.picture import Picture

__all__ = ["Block", "Document", "Items", "Paragraph", "Picture", "PictureOfTwoWidths", "Section", "Table"]


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Items:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are text; the columns named in `numeric` are set flush right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PictureOfTwoWidths(Picture):
    """A picture that is also drawn for a phone."""

    narrow: str = ""


Block = Paragraph | Items | Table | Picture


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Document:
    title: str
    blocks: tuple[Block, ...]
    sections: tuple[Section, ...]
