"""Hostile experiment files: whatever is in one, reading it ends soon, in an experiment or in a refusal.

Ten thousand examples, most of them made by a plain generator from one drawn seed: to draw every piece of a file would
take hypothesis longer than to read it. `make fuzz` looks for more, guided by coverage.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loader_payloads import PAYLOADS, load, paced

from crucible_core.ir.loading import is_experiment

ROOT = Path(__file__).parents[2]
FILES = [
    file.read_bytes() for file in sorted([*ROOT.glob("examples/*/*.yaml"), *ROOT.glob("tests/interchange/*.json")])
]
SHARE = 2_500
"""Examples of each of four kinds."""


@pytest.mark.slow
@pytest.mark.fault("S1", "bombs of YAML and JSON")
def test_no_payload_takes_half_a_second_or_100_mb_or_ends_the_process() -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-m", "loader_payloads"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (told[-1:], done.stderr)
    assert [one["name"] for one in told] == list(PAYLOADS)
    assert [one for one in told if max(one["seconds"], one["to_find"]) >= 0.5 or one["megabytes"] >= 100] == []
    assert not Path("owned").exists()


def loaded_or_refused(raw: bytes, suffix: str) -> None:
    file = Path(f"e{suffix}")
    file.write_bytes(raw)

    def work() -> None:
        load(file).encode()
        is_experiment(file)

    assert paced(work)[0] < 0.5


suffixes = st.sampled_from([".yaml", ".json"])
seeds = st.integers(0, 2**48)

PIECES = [
    *"[]{}:,-?&*!|>'\"%@`#~ \n\t\\", "id: a\n", "pipeline:\n", "name: s", "- ", "&a ", "*a", "<<: ", "!!str ",
    "---\n", "...\n", "\n  ", "\n    ", "yes", ".inf", "1e9", "0o9", "0x", "12:30", "2026-01-01", "\u2028", "\x85",
    "\ufeff", "ä", "😀", '"\\ud800"', '"\\u0000"', "{a: b:c}", "? ", "%YAML 1.2\n", "|\n ", ">-\n", "gates: ",
    "options: ", "trials: ", "grid: ",
]  # fmt: skip


@pytest.mark.slow
@settings(max_examples=SHARE)
@given(st.binary(max_size=200), suffixes)
@pytest.mark.fault("S1")
def test_any_bytes(raw: bytes, suffix: str) -> None:
    loaded_or_refused(raw, suffix)


@pytest.mark.slow
@settings(max_examples=SHARE)
@given(seeds, suffixes)
@pytest.mark.fault("S1")
def test_any_heap_of_pieces(seed: int, suffix: str) -> None:
    chance = random.Random(seed)
    text = "".join(chance.choices(PIECES, k=chance.randint(0, 60)))
    loaded_or_refused(text.encode(), suffix)


@pytest.mark.slow
@settings(max_examples=SHARE)
@given(seeds)
@pytest.mark.fault("S1")
def test_any_change_of_a_real_file(seed: int) -> None:
    chance = random.Random(seed)
    raw = bytearray(chance.choice(FILES))
    suffix = ".json" if raw[:1] == b"{" else ".yaml"
    for _ in range(chance.randint(1, 6)):
        at, cut = chance.randint(0, len(raw)), chance.choice([0, 0, 1, 3, 40])
        start = chance.randint(0, len(raw))
        put: bytes = chance.choice([
            chance.choice(PIECES).encode(),
            chance.randbytes(chance.randint(0, 4)),
            bytes(raw[start : start + chance.randint(0, 80)]),  # a part of it, again
        ])  # fmt: skip
        raw[at : at + cut] = put
    loaded_or_refused(bytes(raw), suffix)


KEYS = [
    "id", "pipeline", "name", "module", "options", "enabled", "retry", "max_retries", "delay", "on", "timeout",
    "always", "outputs", "formats", "sink", "reliability", "stats", "tests", "alpha", "gates", "metric", "at_least",
    "no_regression", "group", "variants", "trials", "grid", "arms", "replicates", "search", "baseline", "schedule",
    "cron", "timezone", "automation", "execution", "executor", "dataset", "metadata", "tags", "seed", "lock",
    "registration", "x", "", "a.b",
]  # fmt: skip
SCALARS: list[Any] = [
    None, True, False, 0, 1, -1, 2**63, -(2**64), 1.5, 1e308, "", "a", "s", "bench", "ttest", "0 2 * * *", "@daily",
    "celery", "a:b", "../x", "\x00", "\x1b[2J", "\u202e", "é" * 200, "nan", "${HOME}", "{{ 1 }}", "builtins:exec",
    "os.system",
]  # fmt: skip


def _tree(chance: random.Random, depth: int) -> Any:
    kind = chance.random()
    if depth == 0 or kind < 0.35:
        return chance.choice(SCALARS)
    if kind < 0.55:
        return [_tree(chance, depth - 1) for _ in range(chance.randint(0, 3))]
    return {chance.choice(KEYS): _tree(chance, depth - 1) for _ in range(chance.randint(0, 5))}


def _experiment(chance: random.Random) -> dict[str, Any]:
    """An experiment, nearly: parts of it have another shape."""
    stages = [{"name": chance.choice("stuv"), **_tree_of(chance)} for _ in range(chance.randint(1, 3))]
    return {"id": "a", "pipeline": stages, **_tree_of(chance)}


def _tree_of(chance: random.Random) -> dict[str, Any]:
    return {chance.choice(KEYS[2:]): _tree(chance, 3) for _ in range(chance.randint(0, 2))}


def _flow(value: Any, chance: random.Random) -> str:
    """As YAML on one line, mostly without quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key, chance)}: {_flow(one, chance)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(one, chance) for one in value) + "]"
    return str(value) if chance.random() < 0.5 else json.dumps(value)


@pytest.mark.slow
@settings(max_examples=SHARE)
@given(seeds, suffixes)
@pytest.mark.fault("S1")
def test_any_structure(seed: int, suffix: str) -> None:
    chance = random.Random(seed)
    tree = _experiment(chance) if chance.random() < 0.8 else _tree(chance, 4)
    loaded_or_refused((json.dumps(tree) if suffix == ".json" else _flow(tree, chance)).encode(), suffix)
