"""What an experiment declares, locked before a run, and how a run differs from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from crucible_core.ir.experiment import Experiment
from crucible_core.ir.lock import Lock
from crucible_core.ir.trials_stage import MODULE, STAGE
from crucible_core.values.messages import shorten

__all__ = ["Change", "Registration", "lock_of", "registration_of", "terms_of"]

_HOW_IT_IS_RUN: Final = frozenset({"engine", "jobs", "options", "stages", "workers"})
"""Options of the stage `trials` that do not change a result, or that are listed with the stages here."""
_OF_ALL: Final = (
    *("seed", "variant", "reliability", "backend", "dataset", "experiment_type", "model_version"),
    *("training_config", "baseline", "resources"),
)
"""Keys of an experiment that its stages may use."""
_MOST_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not as it was locked; None stands for something that is not there."""

    place: tuple[str, ...]
    then: Any
    now: Any

    @property
    def what(self) -> str:
        return ".".join(self.place)

    def __str__(self) -> str:
        return f"{self.what}: locked {shown(self.then)}, now {shown(self.now)}"


@dataclass(frozen=True, slots=True)
class Registration:
    """A run's experiment compared with its lock."""

    lock: Lock
    changes: tuple[Change, ...]
    order: tuple[str, ...]
    """The names of the stages in the order in which they are run."""

    @property
    def name(self) -> str:
        """The lock by the beginning of its hash, and its date."""
        return f"{self.lock.hash[:12]} of {self.lock.locked[:16].replace('T', ' ')} UTC"

    @property
    def sentence(self) -> str:
        """Whether the run is as it was locked; else what changed."""
        if not self.changes:
            return f"As locked ({self.name})."
        said = [str(one) for one in self.changes[:_MOST_SHOWN]]
        more = len(self.changes) - _MOST_SHOWN
        rest = f"; and {more} more" if more > 0 else ""
        return f"Not as locked ({self.name}): {'; '.join(said)}{rest}."

    def exploratory(self, metric: str) -> str | None:
        """Why the comparison in this metric was not declared by the lock; None if it was."""
        stage = self.lock.comparisons.get(metric)
        if stage is None:
            return "it was not locked"
        bearing = [one for one in self.changes if self._bears_on(one, stage)]
        return "; ".join(map(str, bearing[:_MOST_SHOWN])) if bearing else None

    def _bears_on(self, change: Change, stage: str) -> bool:
        """Whether the result of a comparing stage may depend on the change: all that comes before it, and itself."""
        if change.place[0] == "gates":
            return False
        if change.place[0] != "stages" or change.place[1] == stage:
            return True
        other = change.place[1]
        if other in self.lock.comparisons.values():
            return False  # another comparison, which adds its metric only
        if other in self.order and stage in self.order:
            return self.order.index(other) < self.order.index(stage)
        return True


def shown(value: Any) -> str:
    """A value in a sentence."""
    return "nothing" if value is None else shorten(json.dumps(value, ensure_ascii=False), 60)


def terms_of(experiment: Experiment) -> dict[str, Any]:
    """What an experiment declares: its seed, its trials, the options of every stage, its gates.

    The experiment is a planned one, as a run has it: the stage `trials` stands for the stages of a trial.
    """
    data = experiment.to_dict()
    found: dict[str, Any] = {key: data[key] for key in _OF_ALL if data.get(key) is not None}
    stages: dict[str, Any] = {}
    for one in data["pipeline"]:
        options = one.get("options") or {}
        if one["name"] == STAGE and one.get("module") == MODULE:
            found["trials"] = {key: value for key, value in options.items() if key not in _HOW_IT_IS_RUN}
            inside = options.get("options") or {}
            stages |= {each["name"]: _stage(each, inside.get(each["name"])) for each in options["stages"]}
        else:
            stages[one["name"]] = _stage(one, options)
    found["stages"] = stages
    if gates := data.get("gates"):
        found["gates"] = {one["name"]: {key: value for key, value in one.items() if key != "name"} for one in gates}
    return found


def _stage(entry: Mapping[str, Any], options: Mapping[str, Any] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if entry.get("module"):
        found["runs"] = entry["module"]
    if entry.get("enabled") is False:
        found["enabled"] = False
    return {**found, **({"options": dict(options)} if options else {})}


def lock_of(experiment: Experiment, comparisons: Mapping[str, str]) -> Lock:
    """The lock of a planned experiment, made now; `comparisons` is metric -> the stage whose comparison it gets."""
    terms = terms_of(experiment)
    return Lock(
        version=1,
        experiment=experiment.id,
        locked=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        hash=_hash(comparisons, terms),
        comparisons=dict(comparisons),
        terms=terms,
    )


def registration_of(experiment: Experiment) -> Registration | None:
    """How an experiment that is run differs from its lock; None if it was not locked."""
    lock = experiment.lock
    if lock is None:
        return None
    changes = []
    if lock.hash != _hash(lock.comparisons, lock.terms):
        changes.append(Change(("lock",), lock.hash[:12], "a text that was edited after it was locked"))
    if lock.experiment != experiment.id:
        changes.append(Change(("id",), lock.experiment, experiment.id))
    now = terms_of(experiment)
    changes += _differences((), lock.terms, now)
    stages = lock.terms.get("stages")
    if isinstance(stages, dict):
        then_order = [name for name in stages if name in now["stages"]]
        now_order = [name for name in now["stages"] if name in stages]
        if then_order != now_order:
            changes.append(Change(("pipeline",), then_order, now_order))
    return Registration(lock, tuple(changes), tuple(now["stages"]))


def _differences(place: tuple[str, ...], then: Any, now: Any) -> Iterator[Change]:
    if not (isinstance(then, Mapping) and isinstance(now, Mapping)):
        if _json(then) != _json(now):
            yield Change(place, then, now)
        return
    for key in dict.fromkeys([*then, *now]):
        yield from _differences((*place, key), then.get(key), now.get(key))


def _hash(comparisons: Mapping[str, str], terms: Mapping[str, Any]) -> str:
    return hashlib.sha256(_json([comparisons, terms]).encode()).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
