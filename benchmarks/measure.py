"""What the benchmarks share: alternating rounds, medians, ratios of one round, tables as Markdown.

Absolute times drift by a factor of two on a shared machine. So the contenders of a table run in turn, round after
round, and a ratio is the median of the ratios within each round.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

Times = dict[str, list[float]]


def arguments(description: str, *, rounds: int, quick: int) -> argparse.Namespace:
    """`--rounds N`, and `--quick` for few rounds and without what takes long."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, help=f"rounds per table (default {rounds}, with --quick {quick})")
    parser.add_argument("--quick", action="store_true", help="few rounds, and nothing that takes long")
    given = parser.parse_args()
    given.rounds = given.rounds or (quick if given.quick else rounds)
    return given


def print_header(title: str, packages: Sequence[str], rounds: int) -> None:
    versions = [f"{name} {found}" for name in packages if (found := _version(name))]
    command = shlex.join([f"python benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]).replace("'", "")
    print(f"# {title}\n")
    print(f"`{command}`, {datetime.now(UTC):%Y-%m-%d}; {rounds} rounds, {os.cpu_count()} cores,")
    print(f"Python {platform.python_version()}, {', '.join(versions)}.\n")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def seconds(function: Callable[[], Any]) -> float:
    """How long one call takes, the garbage of earlier calls collected and the collector running as usual."""
    gc.collect()
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def alternate(contenders: Mapping[str, Callable[[], float]], rounds: int) -> Times:
    """Call every contender once per round, in turn; each returns what it measured."""
    times: Times = {name: [] for name in contenders}
    gc.collect()
    gc.freeze()  # what was imported before is no garbage of the contenders
    for _ in range(rounds):
        for name, measure in contenders.items():
            times[name].append(measure())
    return times


def ratio(times: Times, ours: str, reference: str) -> float:
    """The median over the rounds of one contender's time as a multiple of another's."""
    return median(one / other for one, other in zip(times[ours], times[reference], strict=True))


def child(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with `arguments` in a process of its own, with byte code as usual. Raises if it fails."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(arguments)} failed:\n{done.stderr}")
    return done


def child_json(arguments: Sequence[str]) -> Any:
    """What a child process prints as the last line of its output, read as JSON."""
    return json.loads(child(arguments).stdout.splitlines()[-1])


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"| {' | '.join(columns)} |")
    print(f"| --- |{' ---: |' * (len(columns) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


def number(value: float) -> str:
    """Two significant digits below 10, three below 1,000."""
    return f"{value:.2g}" if abs(value) < 10 else f"{value:,.0f}"


def print_target(what: str, reached: float, most: float, *, acceptable: float | None = None) -> None:
    """One line: a number that should be at most `most`, and whether it is."""
    if reached <= most:
        verdict = "reached"
    elif acceptable is not None and reached <= acceptable:
        verdict = f"missed, but within the acceptable {number(acceptable)}"
    else:
        verdict = "MISSED"
    print(f"- {verdict}: {what} is {number(reached)}; the target is at most {number(most)}")
