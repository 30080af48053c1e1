"""The code blocks of the pages, and the commands in them."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(page for page in map(ROOT.joinpath, ["README.md", "CONTRIBUTING.md", "SECURITY.md"]) if page.exists()),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("deploy", "benchmarks")),
]

FENCE = re.compile(r"^ *```(?P<language>[^\n`]*)\n(?P<text>.*?)^ *```$", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"`([\w./-]+\.\w+)`:\s*$")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    file: str | None
    """The file that the block is, if the text before it ends with its name: `coins.yaml`."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            page.relative_to(ROOT).as_posix(),
            text.count("\n", 0, fence.start()) + 1,
            fence["language"],
            textwrap.dedent(fence["text"]),
            named[1] if (named := NAMED.search(text, 0, fence.start())) else None,
        )
        for fence in FENCE.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def written(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def lines_of(block: Block) -> Iterator[tuple[str, str]]:
    """Each command line with what the page shows of what it says."""
    text = block.text.replace("\\\n", " ")
    if block.language == "console":
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            line, _, shown = part.partition("\n")
            yield line, shown
    elif block.language == "bash":
        yield from ((line, "") for line in text.splitlines())
    elif block.language == "text":
        yield from ((line, "") for line in text.splitlines() if line.split(" ")[0] in ("crucible", "make"))


def words_of(line: str) -> Iterator[tuple[dict[str, str], list[str]]]:
    """The commands of a line: what each sets in its environment, and its words."""
    reader = shlex.shlex(line, posix=True, punctuation_chars=True)
    reader.whitespace_split = True
    words: list[str] = []
    for word in [*reader, ";"]:
        if word not in {";", "&&", "||", "|"}:
            words.append(word)
            continue
        if ">" in words:
            del words[words.index(">") :]
        settings: dict[str, str] = {}
        while words and (setting := re.fullmatch(r"([A-Z_]+)=(.*)", words[0])):
            settings[setting[1]] = setting[2]
            del words[0]
        if words:
            yield settings, words
        words = []


def commands_of(block: Block) -> Iterator[tuple[dict[str, str], list[str]]]:
    for line, _ in lines_of(block):
        yield from words_of(line)
