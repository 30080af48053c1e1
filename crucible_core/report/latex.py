"""A report as LaTeX."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence

from crucible_bench.plots.tikz import tikz_of
from crucible_core.report.document import Block, Document, Items, Paragraph, Picture, Table
from crucible_core.values.jsonable import visible_text

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
    '"': r"\symbol{34}",  # a command in some languages of babel
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


# Characters of mathematics, by their commands there.
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
    return "".join(map(_latex_char, " ".join(visible_text(text).split()))).replace("--", "-{}-")


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
    """A table that fits the page: long texts are wrapped, in smaller print; many rows make several tables."""
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
    """Each column's share of a line, or 0 if it keeps its natural width; and whether all columns fit.

    No column is narrower than its longest word, so together they may be wider than a line.
    """
    columns = list(zip(*rows, strict=True))
    longest = [max(map(len, column)) for column in columns]
    if sum(longest) + 2 * len(longest) <= _LATEX_LINE:
        return [0.0] * len(longest), True
    words = [max(len(word) for cell in column for word in re.split(r"[\s-]", cell)) for column in columns]
    least = [
        whole if number else min(word, 24) + 1 for whole, word, number in zip(longest, words, numeric, strict=True)
    ]
    # The rest goes to the columns that need it, by the square root, so that a text twice as long takes more lines
    # rather than twice the width.
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

    If the package tikz is loaded too, pictures are drawn; otherwise they are described in words.

    pdflatex has no fonts for most scripts: it shows their letters by number. The two others show the letters if the
    document's font has them.
    """
    parts = [
        r"% needs \usepackage{booktabs}, and \usepackage{tikz} to draw pictures instead of describing them",
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
    """As wide as the text; a tall picture nearly as high as the page."""
    width, height = (float(found) for found in re.findall(r' (?:width|height)="([\d.]+)"', svg)[:2])
    return r"!}{0.9\textheight" if height > 1.4 * width else r"\linewidth}{!"
