"""A report as Markdown."""

from __future__ import annotations

import base64
import math
import re

from crucible_core.report.document import Block, Document, Items, Paragraph, Picture, Table
from crucible_core.values.jsonable import visible_text

_MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#&])")


# GitHub turns bare addresses, and names after @, into links, escaped or not.
_MARKDOWN_LINK = re.compile(r"(?i)(https?|ftp|www|mailto|xmpp)(?=[:.])|@(?=\S)")


def escape_markdown(text: str) -> str:
    """One line of text that Markdown shows as it is: no emphasis, link, image, code or HTML."""
    return _MARKDOWN_LINK.sub(r"\g<0><!-- -->", _markdown_alt(text))


def _markdown_alt(text: str) -> str:
    # An alternative text has no links, and would show a comment literally.
    return _MARKDOWN_SPECIAL.sub(r"\\\1", " ".join(visible_text(text).split()))


def escape_markdown_lines(text: str) -> str:
    """The same for a text of several lines, which stay lines."""
    return "\n".join(map(_markdown_line, text.splitlines()))


def _markdown_line(text: str) -> str:
    # `-`, `+`, `=` and `1.` mean something at the start of a line.
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", escape_markdown(text))


def markdown_of(document: Document, *, picture_bytes: int | None = None) -> str:
    """The document in GitHub's dialect, its pictures as `data:` images.

    With `picture_bytes`, pictures are shown as long as all of them together take no more bytes of the text than that;
    the others are described in words.
    """
    left = math.inf if picture_bytes is None else picture_bytes

    def render(block: Block) -> str:
        nonlocal left
        if not isinstance(block, Picture):
            return _markdown_block(block)
        shown = _markdown_block(block)
        size = len(shown.encode())
        if size > left:
            return f"Picture: {escape_markdown(block.alt)}"
        left -= size
        return shown

    parts = [f"# {escape_markdown(document.title)}", *map(render, document.blocks)]
    for section in document.sections:
        parts += [f"## {escape_markdown(section.title)}", *map(render, section.blocks)]
    return "\n\n".join(parts) + "\n"


def _markdown_block(block: Block) -> str:
    match block:
        case Paragraph(text, strong):
            return f"**{escape_markdown(text)}**" if strong else _markdown_line(text)
        case Items(items):
            return "\n".join(f"- {_markdown_line(item)}" for item in items)
        case Table(columns, rows, numeric):
            rule = ["---:" if column in numeric else "---" for column in columns]
            lines = [list(map(escape_markdown, columns)), rule, *(list(map(escape_markdown, row)) for row in rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Picture(svg, alt, caption):
            encoded = base64.b64encode(svg.encode()).decode()
            image = f"![{_markdown_alt(alt)}](data:image/svg+xml;base64,{encoded})"
            return f"{image}\n\n{_markdown_line(caption)}" if caption else image
