"""`crucible lock`: write down what an experiment declares, before its data are seen."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from crucible_core.cli.common import FAILED, input_errors, nothing_else_on_stdout, say
from crucible_core.cli.extensions import HELP
from crucible_core.cli.plain import plain
from crucible_core.errors import InvalidExperimentError
from crucible_core.ir.loading import load_experiment, lock_file
from crucible_core.ir.lock import Lock
from crucible_core.ir.registration import lock_of, registration_of
from crucible_core.ir.secrets import shown_experiment
from crucible_core.ir.whole_checks import ComparesGroups
from crucible_core.plan import plan_experiment
from crucible_core.registry import builtin_registry
from crucible_core.report.output_files import write_atomically

__all__ = ["lock"]

HEAD = "# What {file} declared, by `crucible lock` before a run. Keep it under version control, and do not edit it.\n"
_PLAIN = re.compile(r"[A-Za-z_][\w.-]*")
_NOT_PLAIN = frozenset({"false", "n", "no", "null", "off", "on", "true", "y", "yes"})


@click.command(context_settings=HELP)
@click.argument("file")
@click.option("--check", is_flag=True, help="Only say whether the file is as it was locked; exit 1 if it is not.")
@click.option("--renew", is_flag=True, help="Replace the lock of a file that has changed since.")
def lock(file: str, check: bool, renew: bool) -> None:
    """Write down what the experiment in FILE declares, before it is run.

    The arms, the comparisons and the gates, with each value, go into NAME.lock.yaml beside the file. Runs of a locked
    file say whether they match the lock, and label as exploratory the comparisons that the lock did not declare.
    """
    with input_errors(), nothing_else_on_stdout():
        beside = lock_file(Path(file))
        plan = plan_experiment(load_experiment(file), builtin_registry())
        experiment = shown_experiment(plan.experiment, [type(one.stage) for one in plan], plan.resources)
        registration = registration_of(experiment)
        if check and registration is None:
            raise InvalidExperimentError(f"{file} is not locked: `crucible lock {file}` writes {beside.name}")
        if registration is None or (renew and registration.changes):
            comparisons = {one.stage.metric: one.name for one in plan if isinstance(one.stage, ComparesGroups)}
            made = lock_of(experiment, comparisons)
            write_atomically(beside.name, HEAD.format(file=Path(file).name) + yaml_of(made), beside.parent)
            said = f"{beside}: locked as {made.hash[:12]}"
        else:
            said = f"{beside}: {'not ' if registration.changes else ''}as locked ({registration.name})"
    click.echo(plain(said))
    if registration is not None and registration.changes and not renew:
        for one in registration.changes:
            say(f"  {one}")
        if not check:
            say(f"error: {beside.name} is left as it is; --renew replaces it")
        sys.exit(FAILED)


def yaml_of(made: Lock) -> str:
    """The lock as YAML, a line for each value."""
    return "".join(f"{line}\n" for line in _lines(made.to_dict(), ""))


def _lines(data: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in data.items():
        name = key if _PLAIN.fullmatch(key) and key.lower() not in _NOT_PLAIN else _quoted(key)
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}:"
            yield from _lines(value, f"{indent}  ")
        else:
            yield f"{indent}{name}: {_quoted(value)}"


def _quoted(value: Any) -> str:
    """As JSON, which is YAML except for characters that YAML wants escaped."""
    written = json.dumps(value, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in written)
