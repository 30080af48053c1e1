"""Hostile experiment files, and what reading each costs: run in a process of its own, which prints a line for each.

The line is written when the file has been read, so that a process which dies names the payload after the last line.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from crucible_core import InvalidExperimentError, load_experiment
from crucible_core.ir.loading import is_experiment

__all__ = ["PAYLOADS", "load", "paced"]

T = TypeVar("T")

HEAD = "id: a\npipeline: [{name: s}]\n"
SLOW = "x: {a: b:c}\n"  # what only the Python parser reads


def _many(count: int, text: str) -> str:
    return "".join(text.format(index) for index in range(count))


PAYLOADS: Mapping[str, str] = {
    # what YAML makes of little
    "tag": "!!python/object/apply:os.system ['touch owned']",
    "tag of a mapping": "!!python/object/new:os.system {}",
    "alias bomb": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + _many(9, "{0}: &n{0} [x]\n").replace("[x]", "[" + "*a, " * 8 + "*a]"),
    "anchor in itself": "a: &a [*a]\n",
    "merge keys": _many(500, "a{0}: &a{0} {{k{0}: 1}}\n") + "b: {" + _many(500, "<<: *a{0}, ") + "}\n",
    "120 kB of brackets": "[" * 60_000 + "]" * 60_000,
    "800 kB of brackets": "[" * 800_000,
    "braces": "{a: " * 200_000,
    "dashes": "- " * 400_000,
    "0.9 MB list": "x: [" + "1, " * 300_000 + "]\n",
    "digits": "x: " + "9" * 99_000,
    "hexadecimal": "x: 0x" + "f" * 99_000,
    "huge float": HEAD + "metadata: {x: 1e999}\n",
    "twice": "seed: 1\nseed: 2\n" + HEAD,
    "anchors": "x: [" + _many(40_000, "&a{0} 1,") + "]",
    "aliases": "x: [&a 1," + "*a," * 100_000 + "]",
    "documents": "---\n" * 200_000,
    "directives": "%TAG ! x\n" * 100_000,
    "line ends": HEAD + "\n" * 900_000,
    "spaces": HEAD + " " * 900_000,
    "braces without a key": "{" * 900_000,
    "keys everywhere": "id:" * 300_000,
    "comments": "#\n" * 450_000,
    "tabs": "\t" * 900_000,
    "no text": "\x00" * 900_000,
    "quotes": "'" * 900_000,
    "backslashes": '"' + "\\" * 900_000,
    "right to left": HEAD + "description: '\u202e" + "\u202e" * 30_000 + "'\n",
    # what is read a second time, by the slow parser
    "slow: list": SLOW + "y: [" + "1," * 9_900 + "]",
    "slow: mappings": SLOW + "y: [" + "{}," * 6_600 + "]",
    "slow: a block": SLOW + "y:\n" + "- 1\n" * 4_900,
    "slow: brackets": SLOW + "y: " + "[" * 19_900,
    "slow: open mappings": SLOW + "y: " + "{a," * 6_600,
    "slow: keys": SLOW + "y: {" + _many(1_800, "k{0}: b:c,") + "}",
    "slow: a text": SLOW + "y: '" + "a\n\n" * 6_600 + "'",
    "slow: line ends": SLOW + "\n" * 19_900,
    "slow: entries": "pipeline:\n" + _many(540, "- {{module: package.module{0}:Stage}}\n"),
    "slow: too long": SLOW + "y: [" + "1," * 12_000 + "]",
    # what is well-formed, and wrong thousands of times
    "wrong keys": "id: a\npipeline:\n" + "- nam: s\n" * 16_000,
    "wrong entries": "id: a\npipeline:\n" + "- 1\n" * 45_000,
    "unknown keys": HEAD + _many(24_000, "k{0}: 1\n"),
    "long keys": HEAD + _many(1_000, "pipeline" * 100 + "{0}: 1\n"),
    "unknown tests": HEAD + "reliability: {stats: {tests: [" + "x," * 45_000 + "]}}",
    "unknown formats": HEAD + "outputs: [{name: r, formats: [" + "docx," * 45_000 + "]}]",
    "wrong gates": HEAD + "gates: [" + "{nme: x, metric: y}," * 9_000 + "]",
    "the same names": "id: a\npipeline:\n" + "- name: s\n" * 16_000,
    "many stages": "id: a\npipeline:\n" + _many(16_000, "- name: s{0}\n"),
    "many variants": HEAD + "variants: {" + _many(9_000, "v{0}: {{s: {{}}}},") + "}",
    "a large cron": HEAD + "schedule: {cron: '" + "1," * 40_000 + " * * * *'}",
    "many trials": HEAD + "trials: {replicates: 9999999, grid: {" + _many(20, "s.x{0}: [1, 2, 3],") + "}}",
    # JSON
    "json: brackets": "[" * 400_000 + "]" * 400_000,
    "json: mappings": '{"a":' * 150_000,
    "json: list": '{"id": "a", "x": [' + "1," * 400_000 + "1]}",
    "json: digits": '{"id": ' + "9" * 900_000 + "}",
    "json: not finite": '{"id": "a", "metadata": {"x": NaN}}',
    "json: half a character": '{"id": "a", "metadata": {"x": "\\ud800"}}',
    "json: twice, at the end": '{"id": "a", "x": [' + "1," * 45_000 + '1], "id": "a"}',
    "json: wrong keys": json.dumps({"id": "a", "pipeline": [{"nam": "s"}] * 16_000}),
    "json: empty lists": json.dumps({"id": "a", "pipeline": [{"name": "s", "options": {"x": [[]] * 49_000}}]}),
    "json: spaces": " " * 900_000 + "{}",
}


def load(file: Path) -> str:
    """What the loader says of a file that it refuses, or that it did not."""
    try:
        load_experiment(file)
    except InvalidExperimentError as error:
        return str(error)
    return "loaded"


def paced(work: Callable[[], T]) -> tuple[float, T]:
    """CPU seconds, the least of five where they are many, as they are where `_turns` takes a tenth of a second.

    A machine that does much else is slower, by its caches and its clock; that is not the loader's.
    """
    seconds = float("inf")
    for _ in range(5):
        began = time.process_time()
        result = work()
        spent = time.process_time() - began
        if spent < 0.3:
            return spent, result
        seconds = min(seconds, spent * min(1.0, 0.1 / _turns()))
    return seconds, result


def _turns() -> float:
    """The CPU seconds that a loop of a million turns takes now."""
    began = time.process_time()
    total = 0
    for number in range(1_000_000):
        total += number * number % 7
    return time.process_time() - began


def _read_all() -> Iterator[dict[str, object]]:
    folder = Path(tempfile.mkdtemp())
    for name, text in PAYLOADS.items():
        file = folder / ("e.json" if name.startswith("json") else "e.yaml")
        file.write_bytes(text.encode())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        read, said = paced(lambda file=file: load(file))
        found, _ = paced(lambda file=file: is_experiment(file))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        yield {"name": name, "seconds": read, "to_find": found, "megabytes": grown, "said": said[:300]}


if __name__ == "__main__":
    for line in _read_all():
        print(json.dumps(line), flush=True)
    sys.exit(0)
