"""Observers that the environment names: `CRUCIBLE_OBSERVERS=mlflow`, by entry points of `crucible.observers`."""

from __future__ import annotations

import logging
import os

from crucible_core.observers import Observer
from crucible_core.values.entry_points import installed_entries
from crucible_core.values.messages import error_text, listing

__all__ = ["OBSERVERS_GROUP", "OBSERVERS_VARIABLE", "named_observers"]

OBSERVERS_GROUP = "crucible.observers"
OBSERVERS_VARIABLE = "CRUCIBLE_OBSERVERS"

_log = logging.getLogger("crucible")


def named_observers() -> tuple[Observer, ...]:
    """The observers that CRUCIBLE_OBSERVERS names, separated by commas; each is made by its entry point.

    One that cannot be made is logged, once in a process, and left out: a missing observer must not fail a run.
    """
    asked = [name.strip() for name in os.environ.get(OBSERVERS_VARIABLE, "").split(",") if name.strip()]
    if not asked:
        return ()
    entries = {entry.name: entry for entry in installed_entries(OBSERVERS_GROUP)}
    found = []
    for name in dict.fromkeys(asked):
        if name not in entries:
            _say_once(f"there is no observer {name!r}; installed: {listing(entries) or 'none'}")
            continue
        try:
            found.append(entries[name].load()())
        except Exception as error:  # noqa: BLE001
            _say_once(f"the observer {name!r} cannot be made: {error_text(error)}")
    return tuple(found)


def _say_once(problem: str) -> None:
    if problem not in _said:
        _said.add(problem)
        _log.warning("%s, which %s asks for", problem, OBSERVERS_VARIABLE)


_said: set[str] = set()
