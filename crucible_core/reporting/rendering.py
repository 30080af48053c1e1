"""A document in each format. Every text is escaped for the format it goes into."""

from __future__ import annotations

import base64
import csv
import html
import io
import itertools
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

from crucible_core.context import Context
from crucible_core.jsonable import safe_text, to_json_text, to_jsonable
from crucible_core.pictures.tikz import tikz_of
from crucible_core.reporting.content import flatten, pair_values, report_on, summarize_run
from crucible_core.reporting.document import Block, Document, Items, Paragraph, Picture, Table
from crucible_core.vocabulary import ReportFormat

__all__ = ["RENDERERS", "SUFFIXES", "html_of", "latex_of", "markdown_of", "render_report"]

SUFFIXES: Mapping[ReportFormat, str] = {
    "csv": ".csv",
    "html": ".html",
    "json": ".json",
    "latex": ".tex",
    "markdown": ".md",
}


def render_report(ctx: Context, report_format: ReportFormat, *, title: str | None = None) -> str:
    """The report on a run as text in the given format."""
    return RENDERERS[report_format](ctx, title)


def _json_report(ctx: Context, title: str | None) -> str:
    return to_json_text({"title": title or ctx.experiment_id, **summarize_run(ctx)})


def _csv_report(ctx: Context, _title: str | None) -> str:
    """The metrics, one a line, at full precision, the numbers of a family's pairs by their names too."""
    rows = [("experiment", "run", "metric", "value")]
    for name, value in itertools.chain(flatten(ctx.metrics), pair_values(ctx)):
        rendered = to_jsonable(value)
        text = rendered if isinstance(rendered, str) else json.dumps(rendered, ensure_ascii=False)
        rows.append((ctx.experiment_id, ctx.run_id, name, text))
    return csv_of(rows)


def csv_of(rows: Iterable[tuple[str, ...]]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="\r\n").writerows([_csv_cell(safe_text(cell)) for cell in row] for row in rows)
    return written.getvalue()


def _csv_cell(text: str) -> str:
    # A cell that begins like a formula is one to a spreadsheet, whatever the quotes; numbers stay numbers.
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- Markdown -------------------------------------------------------------------------------------------------------

_MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#&])")
# Bare addresses, and names after @, become links by themselves in GitHub's dialect, escaped or not.
_MARKDOWN_LINK = re.compile(r"(?i)(https?|ftp|www|mailto|xmpp)(?=[:.])|@(?=\S)")


def _markdown(text: str) -> str:
    return _MARKDOWN_LINK.sub(r"\g<0><!-- -->", _markdown_alt(text))


def _markdown_alt(text: str) -> str:
    # An alternative text holds no links, and would show a comment as it is.
    return _MARKDOWN_SPECIAL.sub(r"\\\1", " ".join(safe_text(text).split()))


def _markdown_line(text: str) -> str:
    # `-`, `+`, `=` and `1.` mean something at the start of a line.
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", _markdown(text))


def markdown_of(document: Document, *, picture_bytes: int | None = None) -> str:
    """The document in GitHub's dialect, its pictures as `data:` images.

    With `picture_bytes`, pictures are shown as long as all of them together take no more bytes of the text than that;
    the others are told in words.
    """
    left = math.inf if picture_bytes is None else picture_bytes

    def render(block: Block) -> str:
        nonlocal left
        if not isinstance(block, Picture):
            return _markdown_block(block)
        shown = _markdown_block(block)
        size = len(shown.encode())
        if size > left:
            return f"Picture: {_markdown(block.alt)}"
        left -= size
        return shown

    parts = [f"# {_markdown(document.title)}", *map(render, document.blocks)]
    for section in document.sections:
        parts += [f"## {_markdown(section.title)}", *map(render, section.blocks)]
    return "\n\n".join(parts) + "\n"


def _markdown_block(block: Block) -> str:
    match block:
        case Paragraph(text, strong):
            return f"**{_markdown(text)}**" if strong else _markdown_line(text)
        case Items(items):
            return "\n".join(f"- {_markdown_line(item)}" for item in items)
        case Table(columns, rows, numeric):
            rule = ["---:" if column in numeric else "---" for column in columns]
            lines = [list(map(_markdown, columns)), rule, *(list(map(_markdown, row)) for row in rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Picture(svg, alt, caption):
            encoded = base64.b64encode(svg.encode()).decode()
            image = f"![{_markdown_alt(alt)}](data:image/svg+xml;base64,{encoded})"
            return f"{image}\n\n{_markdown_line(caption)}" if caption else image


# --- HTML -----------------------------------------------------------------------------------------------------------

# Were a text ever to get through unescaped, it could still load and run nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

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
figure svg { display: block; min-width: 34rem; }
@media print { body { max-width: none; padding: 0; } .scroll { overflow: visible; } }
"""


def html_of(document: Document) -> str:
    """One file that needs nothing else: no script, no address, its style inside."""
    body = [f"<h1>{_html(document.title)}</h1>", *map(_html_block, document.blocks)]
    for section in document.sections:
        body += [f"<section><h2>{_html(section.title)}</h2>", *map(_html_block, section.blocks), "</section>"]
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


def _html(text: str) -> str:
    return html.escape(safe_text(text), quote=True)


def _html_block(block: Block) -> str:
    match block:
        case Paragraph(text, strong):
            return f'<p class="strong">{_html(text)}</p>' if strong else f"<p>{_html(text)}</p>"
        case Items(items):
            return f"<ul>{''.join(f'<li>{_html(item)}</li>' for item in items)}</ul>"
        case Table(columns, rows, numeric):
            sides = ['class="right"' if column in numeric else "" for column in columns]
            named = any(column.strip() for column in columns)
            head = "".join(f"<th {side}>{_html(column)}</th>" for column, side in zip(columns, sides, strict=True))
            lines = "\n".join(
                f"<tr>{''.join(f'<td {side}>{_html(cell)}</td>' for cell, side in zip(row, sides, strict=True))}</tr>"
                for row in rows
            )
            top = f"<thead><tr>{head}</tr></thead>" if named else ""
            kind = "" if named else ' class="plain"'
            return f'<div class="scroll"><table{kind}>{top}<tbody>\n{lines}\n</tbody></table></div>'
        case Picture(svg, _, caption):
            # In the page itself its texts can be copied and show their titles, and its namespace is known.
            drawing = svg.replace(' xmlns="http://www.w3.org/2000/svg"', "", 1)
            said = f"<figcaption>{_html(caption)}</figcaption>" if caption else ""
            return f'<figure><div class="scroll">{drawing}</div>{said}</figure>'


# --- LaTeX ----------------------------------------------------------------------------------------------------------

_LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\symbol{34}",  # what some languages of babel make a command of
    "…": r"\ldots{}",
    "–": "--",
    "—": "---",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ı": r"\i{}",
}
# What stands for itself in mathematics, by its command there.
_LATEX_MATHS = {
    "−": "-", "±": r"\pm", "×": r"\times", "·": r"\cdot", "∞": r"\infty", "≤": r"\le", "≥": r"\ge", "≠": r"\ne",
    "≈": r"\approx", "→": r"\to", "°": r"^{\circ}", "µ": r"\mu", "α": r"\alpha", "β": r"\beta", "γ": r"\gamma",
    "δ": r"\delta", "ε": r"\varepsilon", "ζ": r"\zeta", "η": r"\eta", "θ": r"\theta", "ι": r"\iota", "κ": r"\kappa",
    "λ": r"\lambda", "μ": r"\mu", "ν": r"\nu", "ξ": r"\xi", "π": r"\pi", "ρ": r"\rho", "σ": r"\sigma", "τ": r"\tau",
    "υ": r"\upsilon", "φ": r"\varphi", "χ": r"\chi", "ψ": r"\psi", "ω": r"\omega", "Γ": r"\Gamma", "Δ": r"\Delta",
    "Θ": r"\Theta", "Λ": r"\Lambda", "Π": r"\Pi", "Σ": r"\Sigma", "Φ": r"\Phi", "Ψ": r"\Psi", "Ω": r"\Omega",
}  # fmt: skip
_LATEX_LINE = 68  # characters on a line of a page
_LATEX_SMALL_LINE = 80
_LATEX_ROWS = 35  # of a table on a page
_LATEX_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip


def _latex(text: str) -> str:
    # Two hyphens would become a dash.
    return "".join(map(_latex_char, " ".join(safe_text(text).split()))).replace("--", "-{}-")


def _latex_char(char: str) -> str:
    if char in _LATEX_SPECIAL:
        return _LATEX_SPECIAL[char]
    if char.isascii() and char.isprintable():
        return char
    if char in _LATEX_MATHS:
        return rf"\ensuremath{{{_LATEX_MATHS[char]}}}"
    whole = unicodedata.normalize("NFKD", char)
    if char in "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻":
        return rf"\textsuperscript{{{whole.replace('−', '-')}}}"
    if len(whole) == 2 and whole[0].isascii() and whole[0].isalpha() and whole[1] in _LATEX_ACCENTS:
        return rf"\{_LATEX_ACCENTS[whole[1]]}{{{whole[0]}}}"
    code = rf"\texttt{{U+{ord(char):04X}}}"
    return rf"\crucibletext{{{char}}}{{{code}}}" if char.isprintable() else code


def _latex_table(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: frozenset[str]) -> str:
    """Tables that fit the page: long texts wrapped, in smaller print, and of many rows several, each with the head."""
    align = "".join("r" if column in numeric else "l" for column in columns)
    widths, fits = _latex_widths([columns, *rows], [column in numeric for column in columns])
    head = [_latex_row(columns, widths), r"\midrule"] if any(column.strip() for column in columns) else []
    opening, closing = r"\noindent", ""
    if any(widths):
        opening, closing = r"{\footnotesize\tabcolsep3pt\noindent", r"\par}"
    if not fits:
        opening, closing = rf"{opening}\cruciblefit{{", rf"}}{closing}"
    tables = []
    for start in range(0, max(1, len(rows)), _LATEX_ROWS):
        body = [_latex_row(row, widths) for row in rows[start : start + _LATEX_ROWS]]
        whole = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", *head, *body, r"\bottomrule", r"\end{tabular}"]
        tables.append("\n".join([opening, *whole]) + closing)
    return "\n\n".join(tables)


def _latex_widths(rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> tuple[list[float], bool]:
    """For each column its share of a line, or 0 where it keeps the width that it has by itself, and whether all fit.

    No column is narrower than its longest word, so that together they may be wider than a line.
    """
    columns = list(zip(*rows, strict=True))
    longest = [max(map(len, column)) for column in columns]
    if sum(longest) + 2 * len(longest) <= _LATEX_LINE:
        return [0.0] * len(longest), True
    words = [max(len(word) for cell in column for word in re.split(r"[\s-]", cell)) for column in columns]
    least = [
        whole if number else min(word, 24) + 1 for whole, word, number in zip(longest, words, numeric, strict=True)
    ]
    # What is left goes to those that want it; by the square root, so that a text twice as long takes more lines rather
    # than twice the width.
    wanted = [math.sqrt(max(0, whole - some)) for whole, some in zip(longest, least, strict=True)]
    left = _LATEX_SMALL_LINE - 1.5 * len(longest) - sum(least)
    share = max(0.0, left) / (sum(wanted) or 1)
    widths = [
        0.0 if number else min(whole + 1, some + share * want) / _LATEX_SMALL_LINE
        for whole, some, want, number in zip(longest, least, wanted, numeric, strict=True)
    ]
    return widths, left >= 0


def _latex_row(cells: Iterable[str], widths: Iterable[float]) -> str:
    shown = [
        rf"\parbox[t]{{{width:.3f}\linewidth}}{{\raggedright\strut {_latex(cell)}\strut}}" if width else _latex(cell)
        for cell, width in zip(cells, widths, strict=True)
    ]
    return _latex_start(" & ".join(shown)) + r" \\"


def _latex_start(line: str) -> str:
    # After a row, a rule or an \item, `[` and `*` begin an argument of that command.
    return f"{{{line[0]}}}{line[1:]}" if line.startswith(("[", "*")) else line


def latex_of(document: Document) -> str:
    r"""A fragment to \input into a document that loads the package booktabs, for pdflatex, lualatex or xelatex.

    Where the package tikz is loaded too, pictures are drawn; else they are told in words.

    Letters that pdflatex has no fonts for, those of most scripts, are shown by their number there, and as they are by
    the two others where the document's font has them.
    """
    parts = [
        r"% needs \usepackage{booktabs}, and \usepackage{tikz} to show pictures and not only tell them",
        r"\providecommand{\crucibletext}[2]{\ifdefined\Umathchar{}#1\else#2\fi}",
        r"\providecommand{\cruciblefit}[1]{\ifdefined\resizebox\resizebox{\linewidth}{!}{#1}\else#1\fi}",
        rf"\section*{{{_latex(document.title)}}}",
        *map(_latex_block, document.blocks),
    ]
    for section in document.sections:
        parts += [rf"\subsection*{{{_latex(section.title)}}}", *map(_latex_block, section.blocks)]
    return "\n\n".join(parts) + "\n"


def _latex_block(block: Block) -> str:
    match block:
        case Paragraph(text, strong):
            return rf"\textbf{{{_latex(text)}}}" if strong else _latex(text)
        case Items(items):
            lines = "\n".join(rf"  \item {_latex_start(_latex(item))}" for item in items)
            return f"\\begin{{itemize}}\n{lines}\n\\end{{itemize}}"
        case Table(columns, rows, numeric):
            return _latex_table(columns, rows, numeric)
        case Picture(svg, alt, caption):
            said = rf"\par\smallskip\small {_latex(caption)}" if caption else ""
            return "\n".join(
                [
                    r"\ifdefined\tikzpicture",
                    r"\begin{center}",
                    rf"\resizebox{{{_latex_size(svg)}}}{{{tikz_of(block, _latex)}}}{said}",
                    r"\end{center}",
                    r"\else",
                    rf"\noindent\textit{{Picture.}} {_latex(alt)}",
                    r"\fi",
                ]
            )


def _latex_size(svg: str) -> str:
    """As wide as the text, or of a tall picture nearly as high as the page."""
    width, height = (float(found) for found in re.findall(r' (?:width|height)="([\d.]+)"', svg)[:2])
    return r"!}{0.9\textheight" if height > 1.4 * width else r"\linewidth}{!"


RENDERERS: Mapping[ReportFormat, Callable[[Context, str | None], str]] = {
    "csv": _csv_report,
    "html": lambda ctx, title: html_of(report_on(ctx, title=title)),
    "json": _json_report,
    "latex": lambda ctx, title: latex_of(report_on(ctx, title=title)),
    "markdown": lambda ctx, title: markdown_of(report_on(ctx, title=title)),
}
