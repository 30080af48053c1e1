"""What it costs to hand data on: 200 MB, or 100,000 records, and a few metrics through eight stages on disk.

Each row is a run in a process of its own with a fresh SQLite instance, on a disk that has written out what earlier
rows left. The run window is that which Dagster's UI shows. Bytes written are the sizes of all files that are below
the instance's storage folder afterwards: values and what describes them, not the event log; beside them `wchar` of
the kernel, for all processes of the run and everything they write. Peak RSS is that of the largest process of the
run, mapped files included. Every metric of every run is compared: all rows did the same work.

The multiprocess executor starts the steps of all rows from a fork server that has imported the storage modules, numpy
and the module of the stages: by hand because the run config says so, in ours as it comes.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from measure import alternate, arguments, child_json, number, print_header, print_table

ARRAY_VALUES, QUICK_ARRAY_VALUES = 25_000_000, 1_000_000
RECORDS, QUICK_RECORDS = 100_000, 10_000
MB = 1_000_000

LIMIT = "limit: saved once, mapped by each stage"
TUNED = "Dagster by hand, saved by hand, path passed"
SYNCED = "the same, and fsync"
VALUES = "Dagster by hand, value through the default IO manager"
OURS = "compiled"
KEPT_BY_HAND: Mapping[str, str] = {TUNED: "files", SYNCED: "synced files", VALUES: "values"}
EXECUTORS = ("in-process", "multiprocess")
SHAPES: Mapping[str, str] = {
    "all": "every stage sums the array",
    "ends": "the first and the last stage sum the array, the others read metrics",
    "outputs": "the second stage adds records, no other looks at them",
}

Row = dict[str, Any]


# --- one run, in a child process -----------------------------------------------------------------------------------


def measure_run(system: str, shape: str, executor: str, size: str) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder, "home", "storage")
        written = _wchar()
        run = _limit if system == LIMIT else _run
        row = run(system, shape, executor, int(size), storage)
        _stop_fork_server()
        row["wchar"] = _wchar() - written
        row["bytes"] = sum(path.stat().st_size for path in storage.rglob("*") if path.is_file())
        peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        row["rss"] = max(peaks) * 1024
        if "DATA_PLANE_OPENS" in os.environ:
            from data_plane_work import opens_by_stage

            log = Path(os.environ["DATA_PLANE_OPENS"])
            row["opens"] = opens_by_stage(log, storage, int(size) * 8)
        return row


def _wchar() -> int:
    """Bytes that this process and the children it has waited for have handed to write(2)."""
    return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])


def _stop_fork_server() -> None:
    # Its figures, and those of the steps that it has waited for, become this process's when it is waited for.
    if "multiprocessing.forkserver" in sys.modules:
        sys.modules["multiprocessing.forkserver"]._forkserver._stop()


def _limit(_: str, shape: str, __: str, size: int, storage: Path) -> Row:
    import numpy as np
    from data_plane_work import STAGES, make_array, make_records, metric_of, reads_array

    storage.mkdir(parents=True)
    started = perf_counter()
    path = storage / "data.npy"
    metrics: dict[str, float] = {}
    for index in range(STAGES):
        if shape == "outputs":
            if index == 1:
                path.write_text(json.dumps(make_records(size), separators=(",", ":")))
        elif index == 0:
            np.save(path, made := make_array(size))
        if reads_array(shape, index):
            metrics[f"metric_{index}"] = metric_of(made if index == 0 else np.load(path, mmap_mode="r"))
            made = None
        else:
            metrics[f"metric_{index}"] = metrics.get(f"metric_{index - 1}", 0.0) + 1.0
    return {"seconds": perf_counter() - started, "metrics": metrics}


def _run(system: str, shape: str, executor: str, size: int, storage: Path) -> Row:
    import dagster as dg

    home = storage.parent
    home.mkdir()
    settings: dict[str, Any] = {"in_process": {}} if executor == "in-process" else {"multiprocess": {}}
    if system == OURS:
        from data_plane_stages import experiment

        job = dg.build_reconstructable_job(
            "crucible_dagster.execution",
            "rebuild_job",
            reconstructable_kwargs={
                "experiment": experiment(shape, size).to_json(indent=None),
                "path": None,
                "stages": {},
                "importable": None,
            },
        )
    else:
        from data_plane_by_hand import PRELOADED

        kwargs = {"shape": shape, "size": size, "data": KEPT_BY_HAND[system]}
        job = dg.build_reconstructable_job("data_plane_by_hand", "rebuild", reconstructable_kwargs=kwargs)
        if executor == "multiprocess":
            settings["multiprocess"]["start_method"] = {"forkserver": {"preload_modules": PRELOADED}}
    run_config = {"execution": {"config": settings}, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with (
        dg.DagsterInstance.local_temp(str(home), overrides={"telemetry": {"enabled": False}}) as instance,
        dg.execute_job(job, instance=instance, run_config=run_config, raise_on_error=True) as done,
    ):
        stats = instance.get_run_stats(done.run_id)
        logs = instance.all_logs(done.run_id, of_type=dg.DagsterEventType.STEP_OUTPUT)
    metrics = {
        name: shown.value
        for log in logs
        for name, shown in log.dagster_event.step_output_data.metadata.items()
        if name.startswith("metric_")
    }
    return {"seconds": stats.end_time - stats.start_time, "metrics": metrics}


# --- the tables ----------------------------------------------------------------------------------------------------


class Tables:
    """All rows, alternating; what they found by shape, executor and system."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.found: dict[tuple[str, str, str], list[Row]] = {}
        self.records_bytes: int | None = None

    def size(self, shape: str) -> int:
        if shape == "outputs":
            return QUICK_RECORDS if self.quick else RECORDS
        return QUICK_ARRAY_VALUES if self.quick else ARRAY_VALUES

    def new_bytes(self, shape: str) -> int:
        """What of the data has to be written: the array's memory, or the records' JSON."""
        if shape != "outputs":
            return self.size(shape) * 8
        if self.records_bytes is None:
            # Not here: the peak of a process that starts another counts as the other's too.
            self.records_bytes = child_json([__file__, "--records", str(self.size(shape))])
        return self.records_bytes

    def measure(self, shape: str, executor: str, systems: Sequence[str], rounds: int) -> None:
        def run(system: str) -> Callable[[], float]:
            def measured() -> float:
                os.sync()  # or a row that syncs its own files would wait for what another left
                row = child_json([__file__, "--one", system, shape, executor, str(self.size(shape))])
                self.found.setdefault((shape, executor, system), []).append(row)
                return float(row["seconds"])

            return measured

        alternate({system: run(system) for system in systems}, rounds)
        rows = [row for system in systems for row in self.found[shape, executor, system]]
        assert all(row["metrics"] == rows[0]["metrics"] for row in rows), f"{shape}, {executor}: not the same work"

    def median(self, shape: str, executor: str, system: str, what: str) -> float:
        return median(row[what] for row in self.found[shape, executor, system])

    def ratio(self, shape: str, executor: str, what: str, system: str = OURS, reference: str = TUNED) -> float:
        """The median over the rounds."""
        pairs = zip(self.found[shape, executor, system], self.found[shape, executor, reference], strict=True)
        return median(ours[what] / other[what] for ours, other in pairs)

    def _against(self, shape: str, executor: str, what: str, system: str) -> str:
        if (shape, executor, TUNED) not in self.found:
            return ""
        return f"{self.ratio(shape, executor, what, system):.2f}"

    def print(self, shape: str, executor: str) -> None:
        systems = [key[2] for key in self.found if key[:2] == (shape, executor)]
        rows = [
            [
                system,
                number(self.median(shape, executor, system, "bytes") / MB),
                number(self.median(shape, executor, system, "wchar") / MB),
                number(self.median(shape, executor, system, "seconds")),
                self._against(shape, executor, "seconds", system),
                number(self.median(shape, executor, system, "rss") / MB),
                self._against(shape, executor, "rss", system),
            ]
            for system in systems
        ]
        print(f"## {executor}: {SHAPES[shape]}; {self.new_bytes(shape):,} new bytes\n")
        columns = ["", "MB written", "wchar, MB", "seconds", "x by hand", "peak RSS, MB", "x by hand"]
        print_table(columns, rows)


def count_opens(shape: str, executor: str, size: int) -> list[int]:
    """How often each stage of our run opened the array's file, in a run that is not timed."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DATA_PLANE_OPENS"] = str(Path(folder, "opens"))
        try:
            found: list[int] = child_json([__file__, "--one", OURS, shape, executor, str(size)])["opens"]
        finally:
            del os.environ["DATA_PLANE_OPENS"]
    return found


ROWS: Mapping[tuple[str, str], Sequence[str]] = {
    ("all", "in-process"): (LIMIT, TUNED, SYNCED, VALUES, OURS),
    ("ends", "in-process"): (LIMIT, TUNED, OURS),
    ("outputs", "in-process"): (LIMIT, TUNED, VALUES, OURS),
    ("all", "multiprocess"): (TUNED, SYNCED, VALUES, OURS),
    ("ends", "multiprocess"): (TUNED, OURS),
    ("outputs", "multiprocess"): (TUNED, OURS),
}
QUICK_ROWS: Mapping[tuple[str, str], Sequence[str]] = {
    ("ends", "in-process"): (TUNED, OURS),
    ("outputs", "in-process"): (OURS,),
}


def main() -> int:
    given = arguments(__doc__ or "", rounds=3, quick=1)
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # a fork server does not get the search path of its parent
    os.environ["DATA_PLANE_STAGES"] = "4" if given.quick else "8"
    print_header("Data plane: what it costs to hand data on", ["crucible-dagster", "dagster", "numpy"], given.rounds)
    tables = Tables(quick=given.quick)
    for (shape, executor), systems in (QUICK_ROWS if given.quick else ROWS).items():
        # Runs in one process are short, and near each other: twice the rounds where time counts.
        more = executor == "in-process" and shape != "outputs" and not given.quick
        tables.measure(shape, executor, systems, given.rounds * (2 if more else 1))
        tables.print(shape, executor)

    missed = 0

    def target(what: str, reached: float, most: float, *, counts: bool = True) -> None:
        nonlocal missed
        print(f"- {'met' if reached <= most else 'MISSED'}: {what} {reached:.3g}; the target is at most {most:g}")
        missed += counts and reached > most

    for shape, executor, system in tables.found:
        if system != OURS:
            continue
        name = f"{executor}, {SHAPES[shape]}"
        written = tables.median(shape, executor, OURS, "bytes") / tables.new_bytes(shape)
        target(f"{name}: bytes written, as a multiple of the new ones:", written, 1.05)
        if shape != "outputs":
            # One round of a small array says nothing of time and memory.
            for what, most in (("seconds", 1.5), ("rss", 1.2)):
                called = {"seconds": "run window", "rss": "peak RSS"}[what]
                spent = tables.ratio(shape, executor, what)
                target(f"{name}: {called} as a multiple of by hand:", spent, most, counts=not given.quick)
    for executor in EXECUTORS[1:] if given.quick else EXECUTORS:
        opens = count_opens("ends", executor, tables.size("ends"))
        print(f"\nOpens of the array's file by stage, {executor}, where the first and the last read it: {opens}\n")
        target(f"{executor}: opens of the array by stages that read metrics only:", sum(opens[1:-1]), 0)
        if executor == "multiprocess" and not opens[-1]:
            print("- MISSED: not even the open by the last stage was seen, so the count proves nothing")
            missed += 1
    return 1 if missed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        sys.path.insert(0, str(Path(__file__).parent))
        print(json.dumps(measure_run(*sys.argv[2:])))
    elif sys.argv[1:2] == ["--records"]:
        from data_plane_work import make_records

        print(len(json.dumps(make_records(int(sys.argv[2])), separators=(",", ":"))))
    else:
        sys.exit(main())
