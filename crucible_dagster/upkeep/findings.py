"""What is checked, and what is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dagster import DagsterInstance

from crucible_dagster.store import ContextStore

__all__ = ["SEVERITIES", "Check", "Diagnosis", "Finding", "Severity", "Subject"]

Severity = Literal["error", "warning", "unchecked", "note"]
SEVERITIES: Mapping[Severity, str] = {
    "error": "something does not work, or is lost",
    "warning": "it works, but perhaps not for long, or not for everyone",
    "unchecked": "this could not be checked",
    "note": "good to know",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem, and what to do about it."""

    severity: Severity
    check: str
    """The check that found it."""
    what: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was checked, and everything that was found, the worst first."""

    home: str
    store: str | None
    versions: Mapping[str, str]
    checked: tuple[str, ...]
    findings: tuple[Finding, ...]

    def has(self, *severities: Severity) -> bool:
        """Whether there is a finding of one of these severities."""
        return any(one.severity in severities for one in self.findings)


@dataclass(frozen=True, slots=True)
class Subject:
    """What the checks look at."""

    home: Path
    is_embedded: bool
    """Whether the home is `.crucible/dagster` of a project, and not that of DAGSTER_HOME."""
    experiments: Path | None
    """The folder with the experiment files to load."""
    workspace: Path | None
    """The file that names the code servers."""
    deep: bool
    """Whether to read everything instead of a sample."""
    instance: DagsterInstance | None = None
    store: ContextStore | None = None

    @property
    def opened(self) -> tuple[DagsterInstance, ContextStore]:
        """The instance and the store, for checks that need both."""
        assert self.instance is not None
        assert self.store is not None
        return self.instance, self.store


Check = Callable[[Subject], Iterator[Finding]]
"""A check may raise anything; the error becomes a finding that says that the check could not be done."""
