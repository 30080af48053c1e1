"""docs/security.md: each threat has tests that exist, and our own code keeps the rules that it names."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("crucible_adapters", "crucible_bench", "crucible_core", "crucible_dagster")


def threats() -> list[list[str]]:
    """The cells of each row."""
    text = (ROOT / "docs" / "security.md").read_text()
    table = text[text.index("## Threats") : text.index("## Secrets")]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]
    return rows[2:]


def test_each_threat_has_tests_and_they_exist() -> None:
    assert len(threats()) >= 15
    for threat, done, shown in threats():
        assert done, threat
        tests = re.findall(r"`([^`]+)`", shown)
        assert tests, threat
        for name in tests:
            file, _, test = name.partition("::")
            tree = ast.parse((ROOT / "tests" / file).read_text())
            assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name


def test_every_exception_from_the_security_rules_says_why() -> None:
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in rules["select"]
    assert [name for name in rules["ignore"] if re.fullmatch(r"S\d*", name)] == ["S101"]
    excused = {
        name for name, ignored in rules["per-file-ignores"].items() if any(one.startswith("S") for one in ignored)
    }
    assert not any(name.startswith(PACKAGES) for name in excused)
    found = 0
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            for line in file.read_text().splitlines():
                if re.search(r"# noqa:[^#]*\bS\d+", line):
                    found += 1
                    assert re.search(r"# noqa:[^#]*#\s+\S+ \S+", line), (file, line)
                assert not re.search(r"# (ruff|flake8): noqa", line), (file, line)
    assert found
