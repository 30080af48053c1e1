"""Phrases that read as translated stay out of pages, docstrings, comments and messages: docs/ is read by newcomers."""

from __future__ import annotations

import re

from page_blocks import ROOT

# What to write instead is in the second column.
PHRASES = {
    r"for want of": "because there is no ...",
    r"is no \w+ but": "is not a ..., but",
    r"not to be had": "does not exist",
    r"concerns nobody": "does not matter",
    r"of nobody's": "made-up",
    r"does not bear": "breaks",
}
FOLDERS = ("crucible_adapters", "crucible_bench", "crucible_core", "crucible_dagster", "deploy", "docs", "examples")


def test_no_page_or_source_has_a_phrase_that_reads_as_translated() -> None:
    found = []
    files = [path for folder in FOLDERS for kind in ("py", "md", "yaml") for path in (ROOT / folder).rglob(f"*.{kind}")]
    for path in [*files, *ROOT.glob("*.md"), ROOT / "Makefile"]:
        text = " ".join(path.read_text().split())
        found += [
            f"{path.relative_to(ROOT)}: {phrase}: {better}"
            for phrase, better in PHRASES.items()
            if re.search(phrase, text)
        ]
    assert found == []
