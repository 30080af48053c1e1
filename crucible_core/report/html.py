"""A report as one HTML page that loads nothing."""

from __future__ import annotations

import html
from collections.abc import Sequence

from crucible_core.report.document import Block, Document, Items, Paragraph, Picture, PictureOfTwoWidths, Table
from crucible_core.values.jsonable import visible_text

# If a text ever got through unescaped, it could still load and run nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


# Characters on a line of a phone: each row of a wider table becomes a list of names and values there.
_PHONE_LINE = 44

_STYLE = """
:root { color-scheme: light dark;
  --ink: #1a1f29; --soft: #5b6472; --line: #d9dee5; --paper: #fff; --band: #f5f7fa; --mark: #0b63ce; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #9aa4b2; --line: #343b47; --paper: #14171d; --band: #1b2028; --mark: #7ab4ff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 68rem; color: var(--ink); background: var(--paper);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .75rem; } h2 { font-size: 1.15rem; margin: 2.25rem 0 .6rem; }
p.strong { font-size: 1.15rem; line-height: 1.5; border-left: 4px solid var(--mark);
  padding: .2rem 0 .2rem .9rem; margin: 0 0 1.2rem; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: break-word; }
td { max-width: 26rem; min-width: 3rem; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; } tr:hover td { background: var(--band); }
.right { text-align: right; } td.right { white-space: nowrap; }
ul { padding-left: 1.2rem; color: var(--soft); font-size: .9rem; }
table.plain td { border: 0; padding: .1rem 1.2rem .1rem 0; } table.plain td:first-child { color: var(--soft); }
figure { margin: 1rem 0 1.4rem; } figcaption { color: var(--soft); font-size: .875rem; max-width: 45rem; }
figure svg { display: block; margin-bottom: .4rem; } figure .narrow { display: none; }
@media (max-width: 47rem) {
  body { padding-top: 1.25rem; } h1 { font-size: 1.4rem; }
  figure .narrow { display: block; } figure .narrow + .wide { display: none; }
  table.rows, table.rows tbody, table.rows tr, table.rows td { display: block; width: 100%; }
  table.rows thead { display: none; } table.rows tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  table.rows td { border: 0; padding: .1rem 0; max-width: none; text-align: left; white-space: normal;
    overflow-wrap: anywhere; display: grid; grid-template-columns: 8.5rem 1fr; gap: .75rem; }
  table.rows td::before { content: attr(data-name); color: var(--soft); } table.rows td:empty { display: none; }
  table.rows td:first-child { font-weight: 600; }
}
@media print { body { max-width: none; padding: 0; } .scroll { overflow: visible; } }
"""


def html_of(document: Document) -> str:
    """One self-contained file: no script, no links to other files, its style inside."""
    body = [f"<h1>{_html(document.title)}</h1>", *map(html_of_block, document.blocks)]
    for section in document.sections:
        body += [f"<section><h2>{_html(section.title)}</h2>", *map(html_of_block, section.blocks), "</section>"]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_html(document.title)}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            *body,
            "</body>",
            "</html>\n",
        ]
    )


def framed(page: str) -> str:
    """A page within another one, such as a notebook, which keeps its own style."""
    inside = html.escape(page, quote=True)
    return f'<iframe srcdoc="{inside}" sandbox style="width:100%;height:40rem;border:0"></iframe>'


def _html(text: str) -> str:
    return html.escape(visible_text(text), quote=True)


def html_of_block(block: Block) -> str:
    """A part of a page, every text escaped."""
    match block:
        case Paragraph(text, strong):
            return f'<p class="strong">{_html(text)}</p>' if strong else f"<p>{_html(text)}</p>"
        case Items(items):
            return f"<ul>{''.join(f'<li>{_html(item)}</li>' for item in items)}</ul>"
        case Table(columns, rows, numeric):
            sides = ['class="right"' if column in numeric else "" for column in columns]
            named = any(column.strip() for column in columns)
            names = list(map(_html, columns))
            head = "".join(f"<th {side}>{name}</th>" for name, side in zip(names, sides, strict=True))
            wide = named and _width(columns, rows) > _PHONE_LINE
            starts = [
                f'<td {side} data-name="{name}">' if wide else f"<td {side}>"
                for name, side in zip(names, sides, strict=True)
            ]
            lines = "\n".join(
                f"<tr>{''.join(f'{start}{_html(cell)}</td>' for start, cell in zip(starts, row, strict=True))}</tr>"
                for row in rows
            )
            top = f"<thead><tr>{head}</tr></thead>" if named else ""
            kind = ' class="rows"' if wide else "" if named else ' class="plain"'
            return f'<div class="scroll"><table{kind}>{top}<tbody>\n{lines}\n</tbody></table></div>'
        case Picture(svg, _, caption):
            said = f"<figcaption>{_html(caption)}</figcaption>" if caption else ""
            narrow = block.narrow if isinstance(block, PictureOfTwoWidths) else ""
            small = f'<div class="narrow">{_inline(narrow)}</div>' if narrow else ""
            return f'<figure>{small}<div class="wide">{_inline(svg)}</div>{said}</figure>'


def _width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """About how many characters wide a table is; the names of its columns may be wrapped."""
    names = [max(map(len, name.split()), default=0) for name in columns]
    cells = [max((len(row[index]) for row in rows), default=0) for index in range(len(columns))]
    return sum(map(max, names, cells)) + 2 * (len(columns) - 1)


def _inline(svg: str) -> str:
    # Inline, its texts can be copied and show their titles, and it needs no namespace.
    return svg.replace(' xmlns="http://www.w3.org/2000/svg"', "", 1)
