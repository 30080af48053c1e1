"""The stand-in for a file that cannot be loaded: a job that says what is wrong, and fails with that message."""

# Not `from __future__ import annotations`: Dagster reads the annotation of an op's context as a class.
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dagster import GraphDefinition, JobDefinition, OpDefinition, OpExecutionContext

from crucible_core import InvalidExperimentError
from crucible_core.values.jsonable import shown_text
from crucible_dagster.execute.failures import StepFailure
from crucible_dagster.execute.metadata import inline_code

__all__ = ["broken_jobs"]


def broken_jobs(mistakes: Iterable[InvalidExperimentError], taken: Iterable[str]) -> Iterator[JobDefinition]:
    """A job for each file with mistakes, named `broken_` plus the file's name; names in `taken` are avoided."""
    by_file: dict[str, list[str]] = {}
    for mistake in (one for found in mistakes for one in found.each()):
        where = f"{mistake.location}: " if mistake.location else ""
        by_file.setdefault(mistake.path or "experiment", []).append(shown_text(f"{where}{mistake.message}"))
    names = set(taken)
    for file, said in by_file.items():
        plain = name = f"broken_{re.sub(r'[^A-Za-z0-9_]', '_', Path(file).stem)}"
        number = 2
        while name in names:
            name, number = f"{plain}_{number}", number + 1
        names.add(name)
        yield _broken_job(name, "\n".join(said))


def _broken_job(name: str, said: str) -> JobDefinition:
    def fail(context: OpExecutionContext, inputs: Any) -> None:  # noqa: ARG001  # Dagster's signature
        raise StepFailure(said)

    op = OpDefinition(fail, name=f"{name}_cannot_be_loaded", description=said)
    graph = GraphDefinition(name=name, node_defs=[op])
    shown = "\n\n".join(inline_code(line) for line in said.splitlines())
    return graph.to_job(description=f"**This file cannot be loaded**, and its experiment is left out.\n\n{shown}")
