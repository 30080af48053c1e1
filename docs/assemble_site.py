"""Puts the pages of the site together in build/docs: those of docs/, and those that stand elsewhere in the repository.

A page is written for where it stands, so that its links work there and on GitHub. In the copy, a link leads to the page
of the site, if the site has it, and otherwise to the file on GitHub. Links to nowhere, and pages that the menu misses,
are listed, and fail the build: Zensical looks at links between pages alone.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "build" / "docs"
ELSEWHERE = {
    "README.md": "index.md",
    "deploy/README.md": "deploy.md",
    "benchmarks/README.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(?<=\]\()[^)#\s:]+(?=[)#])")


def place_of(source: str) -> str | None:
    """Where on the site a file of the repository is; None where it is not there."""
    of_docs = source.startswith("docs/") and (ROOT / source).is_file()
    return ELSEWHERE.get(source) or (source.removeprefix("docs/") if of_docs else None)


def linked(text: str, source: str, repository: str, wrong: list[str]) -> str:
    """The page with its links leading to the site, or to the files of the repository, which has this address."""
    here = posixpath.dirname(place_of(source) or "") or "."

    def target(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[0]))
        if place := place_of(path):
            return posixpath.relpath(place, here)
        if not (ROOT / path).exists():
            wrong.append(f"{source} links to {link[0]}, which is not there")
        return f"{repository}/blob/main/{path}"

    return LINK.sub(target, text)


def entries(menu: Any) -> Iterator[str]:
    """The pages and folders that the menu names."""
    if isinstance(menu, str):
        yield menu
    else:
        for inner in menu.values() if isinstance(menu, dict) else menu:
            yield from entries(inner)


def assemble() -> list[str]:
    """Makes build/docs; what is wrong with it."""
    settings = YAML(typ="safe").load(ROOT / "mkdocs.yml")
    repository = settings["extra"]["social"][0]["link"]
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    sources = [file.relative_to(ROOT).as_posix() for file in (ROOT / "docs").rglob("*.md")]
    pages = {place_of(source) or "": source for source in [*sources, *ELSEWHERE]}
    menu = {*entries(settings["nav"])}
    folders = tuple(entry for entry in menu if entry.endswith("/"))
    unlike = {page for page in pages.keys() ^ menu if not page.startswith(folders)}
    wrong = [f"mkdocs.yml: {page} is not {'there' if page in menu else 'in nav'}" for page in sorted(unlike)]
    for page, source in pages.items():
        text = (ROOT / source).read_text("utf-8")
        (PAGES / page).write_text(linked(text, source, repository, wrong), "utf-8")
    return wrong


if __name__ == "__main__":
    sys.exit("\n".join(assemble()) or None)
