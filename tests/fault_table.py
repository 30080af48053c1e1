"""The table of deploy/README.md: what can happen, which tests show what then is so, and how they last ended.

`python tests/fault_table.py [RESULTS.xml ...]` takes over what pytest wrote with --junitxml, and writes the table.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
import xml.etree.ElementTree
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

__all__ = ["ALL_FAULTS", "README", "marked", "markers", "read_results", "rows", "table", "write_table"]

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "tests" / "faults" / "rows.yaml"
README = ROOT / "deploy" / "README.md"
RESULTS = ROOT / "deploy" / "faults.json"
BEGIN, END = "<!-- faults: made by `make faults` -->", "<!-- end of faults -->"

ALL_FAULTS = os.environ.get("CRUCIBLE_FAULTS") == "all"
"""Whether the long part of the tests is wanted too, at the pace of a deployment."""


def rows() -> dict[str, dict[str, str]]:
    """What can happen: name -> `promise`, and `fault` and `open` if they are said."""
    found: dict[str, dict[str, str]] = yaml.safe_load(ROWS.read_text())
    return found


def marked() -> dict[str, list[str]]:
    """The tests that show a row: row -> `file::test`, in the order of files and lines."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for test, names in markers(path):
            for name in names:
                found[name].append(test)
    return dict(found)


def markers(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Each marker of a file: `file::test`, and the rows that it names."""
    text = path.read_text()
    if "mark.fault(" not in text:
        return
    for node in ast.parse(text).body:
        for call in getattr(node, "decorator_list", ()):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.fault":
                name = f"{path.relative_to(ROOT)}::{node.name}"  # type: ignore[attr-defined]
                yield name, [ast.literal_eval(argument) for argument in call.args]


def read_results() -> dict[str, dict[str, Any]]:
    """How each test last ended: `file::test` -> `passed`, `failed`, `seconds`, `date`."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def add_results(files: Sequence[Path]) -> None:
    """Take over the results of marked tests, and forget those of tests that are no more."""
    known = {test for tests in marked().values() for test in tests}
    now: dict[str, dict[str, Any]] = {}
    for file in files:
        for case in xml.etree.ElementTree.parse(file).iter("testcase"):
            # `test_of_two[postgres]@daemon`: its parameters, and the worker that it shares with others, are left out.
            test = re.split(r"[\[@]", case.attrib["name"])[0]
            name = f"{case.attrib['classname'].replace('.', '/')}.py::{test}"
            if name not in known or case.find("skipped") is not None:
                continue
            date = datetime.now(UTC).date().isoformat()
            entry = now.setdefault(name, {"passed": 0, "failed": 0, "seconds": 0.0, "date": date})
            failed = case.find("failure") is not None or case.find("error") is not None
            entry["failed" if failed else "passed"] += 1
            entry["seconds"] = round(entry["seconds"] + float(case.attrib["time"]), 1)
    kept = {name: entry for name, entry in {**read_results(), **now}.items() if name in known}
    RESULTS.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The table as Markdown."""
    tests = marked()
    lines = ["| what happens | what must be so | test | last result |", "| --- | --- | --- | --- |"]
    for name, row in rows().items():
        fault = f"{name}: {row['fault']}" if "fault" in row else name
        shown = [f"`{test.removeprefix('tests/')}`" for test in tests.get(name, ())]
        said = [_result(results.get(test)) for test in tests.get(name, ())]
        if "open" in row:
            shown.append("open")
            said.append(row["open"])
        lines.append(f"| {fault} | {row['promise']} | {'<br>'.join(shown)} | {'<br>'.join(said)} |")
    return "\n".join(lines)


def _result(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "not run yet"
    cases = entry["passed"] + entry["failed"]
    outcome = "passed" if not entry["failed"] else f"FAILED in {entry['failed']} of {cases} cases"
    return f"{outcome}{f' ({cases} cases)' if cases > 1 and not entry['failed'] else ''}, {entry['date']}"


def table_in(text: str) -> str:
    """The table that stands in a README."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def write_table() -> None:
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(f"{before}{BEGIN}\n\n{table(read_results())}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    add_results([Path(argument) for argument in sys.argv[1:]])
    write_table()
