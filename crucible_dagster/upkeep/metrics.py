"""Figures of an instance for Prometheus, in its text format: runs, stages, queue, heartbeats, daemon, store, disk."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from crucible_dagster.dagster_internals import postgres_url
from crucible_dagster.history.summaries import STATUSES
from crucible_dagster.names import step_name
from crucible_dagster.store import ContextStore
from crucible_dagster.store.files import LocalFiles
from crucible_dagster.store.retention import every_run
from crucible_dagster.tags import EXPERIMENT_TAG
from crucible_dagster.upkeep.instance_checks import DAEMON_SILENCE, SILENCE, silence_of

__all__ = ["CONTENT_TYPE", "METRICS", "Meter"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METRICS: Mapping[str, str] = {
    "crucible_info": "Versions, as labels.",
    "crucible_database_up": "Whether the database of the instance answers.",
    "crucible_store_up": "Whether the context store answers.",
    "crucible_runs": "Runs that the database has, by status.",
    "crucible_queue_oldest_seconds": "How long the oldest queued run has been waiting; 0 if none is queued.",
    "crucible_runs_silent": "Runs in progress whose process has sent no heartbeat for two minutes.",
    "crucible_run_heartbeat_oldest_seconds": "Time since the last heartbeat of the run that is silent longest.",
    "crucible_last_run_succeeded": "Whether the experiment's newest finished run succeeded.",
    "crucible_last_run_end_timestamp_seconds": "When the experiment's newest finished run ended.",
    "crucible_last_run_seconds": "How long the experiment's newest finished run took.",
    "crucible_last_stage_seconds": "How long each stage of that run took.",
    "crucible_daemon_up": "Whether a daemon has sent a heartbeat within two minutes.",
    "crucible_daemon_heartbeat_age_seconds": "Time since the last heartbeat of each part of the daemon.",
    "crucible_instigators_on": "Schedules and sensors that are switched on.",
    "crucible_store_bytes": "Size of the context store, by its folders.",
    "crucible_store_files": "Files of the context store, by its folders.",
    "crucible_store_runs": "Runs of which the context store has something.",
    "crucible_store_measured_timestamp_seconds": "When the store was measured, which is done less often than the rest.",
    "crucible_disk_free_bytes": "Free space on the disks that runs write to.",
    "crucible_scrape_seconds": "How long it took to collect these figures.",
}
"""Name -> help text; all of them are gauges."""
NEWEST = 500
"""How many runs are searched for the newest one of each experiment."""

Sample = tuple[str, Mapping[str, str], float]


@dataclass
class Meter:
    """Reads the figures. The store is measured only every `store_every` seconds, because that lists all its files."""

    instance: DagsterInstance
    store: ContextStore
    store_every: float = 0.0
    _of_store: list[Sample] = field(default_factory=list)
    _measured: float = 0.0

    def text(self) -> str:
        """Every available figure, in the text format of Prometheus. For what cannot be reached, `..._up` is 0."""
        began = time.perf_counter()
        versions = {"version": version("crucible-dagster"), "dagster": version("dagster")}
        samples: list[Sample] = [("crucible_info", versions, 1.0)]
        samples += self._guarded("crucible_database_up", self._database_figures)
        samples += self._guarded("crucible_store_up", self._store_figures)
        if ("crucible_database_up", {}, 1.0) in samples:  # else Dagster would try for eleven seconds to reach it
            samples += self._guarded(None, self._heartbeats)
        samples += self._disks()
        samples.append(("crucible_scrape_seconds", {}, time.perf_counter() - began))
        return exposition(samples)

    def _guarded(self, up: str | None, read: Callable[[], Iterable[Sample]]) -> list[Sample]:
        try:
            found = list(read())
        except Exception:  # noqa: BLE001  # from any database, driver or file system: being unreachable is a figure too
            return [] if up is None else [(up, {}, 0.0)]
        return found if up is None else [(up, {}, 1.0), *found]

    def _database_figures(self) -> Iterator[Sample]:
        url = postgres_url(self.instance)
        if url is not None:
            create_engine(url, poolclass=NullPool).connect().close()
        now = time.time()
        for name, statuses in STATUSES.items():
            counted = self.instance.get_runs_count(RunsFilter(statuses=list(statuses)))
            yield "crucible_runs", {"status": name}, counted
        queued = self.instance.get_run_records(RunsFilter(statuses=[DagsterRunStatus.QUEUED]), ascending=True, limit=1)
        oldest = [now - one.create_timestamp.timestamp() for one in queued]
        yield "crucible_queue_oldest_seconds", {}, max(oldest, default=0.0)
        yield from self._newest_runs()
        beats = self.instance.get_daemon_heartbeats()
        ages = {kind: now - one.timestamp for kind, one in beats.items()}
        yield "crucible_daemon_up", {}, float(any(age < DAEMON_SILENCE for age in ages.values()))
        for kind, age in ages.items():
            yield "crucible_daemon_heartbeat_age_seconds", {"daemon": kind.lower()}, age
        on = sum(one.is_running for one in self.instance.all_instigator_state())
        yield "crucible_instigators_on", {}, on

    def _newest_runs(self) -> Iterator[Sample]:
        seen: set[str] = set()
        for stored in islice(every_run(self.instance), NEWEST):
            run, experiment = stored.dagster_run, stored.dagster_run.tags.get(EXPERIMENT_TAG)
            if experiment is None or experiment in seen or not run.is_finished or stored.end_time is None:
                continue
            seen.add(experiment)
            labels = {"experiment": experiment}
            yield "crucible_last_run_succeeded", labels, float(run.is_success)
            yield "crucible_last_run_end_timestamp_seconds", labels, stored.end_time
            if stored.start_time is not None:
                yield "crucible_last_run_seconds", labels, stored.end_time - stored.start_time
            for step in self.instance.get_run_step_stats(run.run_id):
                if step.start_time is not None and step.end_time is not None:
                    where = {**labels, "stage": step_name(step.step_key)}
                    yield "crucible_last_stage_seconds", where, step.end_time - step.start_time

    def _heartbeats(self) -> Iterator[Sample]:
        now = time.time()
        started = self.instance.get_run_ids(RunsFilter(statuses=[DagsterRunStatus.STARTED]))
        silences = [one for run_id in started if (one := silence_of(self.store, run_id, now)) is not None]
        yield "crucible_runs_silent", {}, sum(one > SILENCE for one in silences)
        yield "crucible_run_heartbeat_oldest_seconds", {}, max(silences, default=0.0)

    def _store_figures(self) -> Iterator[Sample]:
        now = time.time()
        if not self._of_store or now - self._measured >= self.store_every:
            self._of_store, self._measured = list(_sizes(self.store)), now
        yield from self._of_store
        yield "crucible_store_measured_timestamp_seconds", {}, self._measured

    def _disks(self) -> Iterator[Sample]:
        places = {"home": Path(self.instance.root_directory)}
        if isinstance(self.store.files, LocalFiles):
            places["store"] = Path(str(self.store.base))
        for name, path in places.items():
            if path.exists():
                yield "crucible_disk_free_bytes", {"place": name}, shutil.disk_usage(path).free


def _sizes(store: ContextStore) -> Iterator[Sample]:
    sizes, files = Counter[str](), Counter[str]()
    for info in store.files.list(""):
        folder = info.name.partition("/")[0] if "/" in info.name else "other"
        sizes[folder] += info.size
        files[folder] += 1
    for folder in sorted(sizes):
        yield "crucible_store_bytes", {"folder": folder}, sizes[folder]
        yield "crucible_store_files", {"folder": folder}, files[folder]
    yield "crucible_store_runs", {}, len(store.runs())


def exposition(samples: Iterable[Sample]) -> str:
    """The samples in the text format of Prometheus, each metric with its help.

    Source: https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4.
    """
    found: dict[str, list[str]] = {}
    for name, labels, value in samples:
        written = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        found.setdefault(name, []).append(f"{name}{{{written}}} {value!r}" if written else f"{name} {value!r}")
    lines = []
    for name, values in found.items():
        lines += [f"# HELP {name} {METRICS[name]}", f"# TYPE {name} gauge", *values]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
