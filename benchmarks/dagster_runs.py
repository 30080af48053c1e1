"""What a Dagster run costs: a compiled experiment of five trivial stages against the same five ops written by hand.

Every run happens in a process of its own with a fresh SQLite instance, as a run worker does it, and is measured by
its run window (from Dagster's start to its end of the run, as the UI shows it); "again" is the second run of such a
process. In its first run a process imports what it needs, in the later ones it does not.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from measure import alternate, arguments, child_json, number, print_header, print_table, print_target, ratio

STEPS = 5
# Run config; both jobs get the very same, so that what is compared is the job and not the executor.
EXECUTORS: Mapping[str, Any] = {
    "in-process": {"in_process": {}},
    "multiprocess, forkserver, preloaded": {"multiprocess": {"start_method": {"forkserver": {"preload_modules": []}}}},
    "multiprocess, forkserver, Dagster's preload": {"multiprocess": {"start_method": {"forkserver": {}}}},
    "multiprocess, spawn (Dagster's default)": {"multiprocess": {"start_method": {"spawn": {}}}},
}
PRELOADED = "multiprocess, forkserver, preloaded"
SPAWN = "multiprocess, spawn (Dagster's default)"


# --- one run, in a child process ----------------------------------------------------------------------------------


def measure_run(job: str, executor: str) -> dict[str, float]:
    """The run windows of the first and the second run of this process, in seconds."""
    import dagster as dg

    config = json.loads(json.dumps(EXECUTORS[executor]))
    if executor == PRELOADED:
        from crucible_dagster.dagster_internals import PRELOADED_MODULES

        config["multiprocess"]["start_method"]["forkserver"]["preload_modules"] = list(PRELOADED_MODULES)
    reconstructable = by_hand() if job == "by hand" else compiled()
    run_config = {
        "execution": {"config": config},
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
    quiet = {"telemetry": {"enabled": False}}
    with tempfile.TemporaryDirectory() as home, dg.DagsterInstance.local_temp(home, overrides=quiet) as instance:
        windows = []
        for _ in range(2 if executor == "in-process" else 1):
            with dg.execute_job(reconstructable, instance=instance, run_config=run_config, raise_on_error=True) as done:
                stats = instance.get_run_stats(done.run_id)
            windows.append(stats.end_time - stats.start_time)
    return dict(zip(("first", "again"), windows, strict=False))


def by_hand() -> Any:
    import dagster as dg
    from five_ops_by_hand import five_ops

    return dg.reconstructable(five_ops)


def compiled() -> Any:
    import dagster as dg
    from five_trivial_stages import EXPERIMENT

    return dg.build_reconstructable_job(
        "crucible_dagster.execution",
        "rebuild_job",
        reconstructable_kwargs={
            "experiment": EXPERIMENT.to_json(indent=None),
            "path": None,
            "stages": {},
            "importable": None,
        },
    )


# --- the table ----------------------------------------------------------------------------------------------------


def windows_of(rounds: int, executors: list[str]) -> dict[str, list[float]]:
    """Run windows, by "job, executor"; in-process also those of the second run."""
    again: dict[str, list[float]] = {}

    def run(job: str, executor: str) -> Callable[[], float]:
        def measured() -> float:
            found = child_json([__file__, "--one", job, executor])
            if "again" in found:
                again.setdefault(f"{job}, in-process, again", []).append(found["again"])
            return float(found["first"])

        return measured

    runs = {f"{job}, {executor}": run(job, executor) for executor in executors for job in ("by hand", "compiled")}
    return {**alternate(runs, rounds), **again}


def main() -> None:
    given = arguments(__doc__ or "", rounds=5, quick=2)
    print_header("Dagster runs: what a step costs", ["crucible-dagster", "dagster"], given.rounds)
    times = windows_of(given.rounds * 3, ["in-process"])
    times |= windows_of(given.rounds, [name for name in EXECUTORS if name != "in-process"])

    shown = ["in-process", "in-process, again", *(name for name in EXECUTORS if name != "in-process")]
    ratios = {name: ratio(times, f"compiled, {name}", f"by hand, {name}") for name in shown}
    print_table(
        ["five steps, SQLite", "by hand, s", "per step, s", "compiled, s", "per step, s", "compiled / by hand"],
        [
            [
                name,
                *(
                    number(median(times[f"{job}, {name}"]) / steps)
                    for job in ("by hand", "compiled")
                    for steps in (1, STEPS)
                ),
                f"{ratios[name]:.2f}",
            ]
            for name in shown
        ],
    )
    for name in shown:
        print_target(f"compiled against by hand, {name}", ratios[name], 1.10)
    spawn = median(times[f"by hand, {SPAWN}"])
    ours = median(times["compiled, in-process"])
    preloaded = median(times[f"compiled, {PRELOADED}"])
    print_target("our default for a pipeline (in-process) as a part of Dagster's default", ours / spawn, 0.1)
    print_target("our default for trials (forkserver, preloaded) as a part of spawn", preloaded / spawn, 0.25)
    print_target("our default for trials, seconds per step", preloaded / STEPS, 0.5)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        sys.path.insert(0, str(Path(__file__).parent))
        print(json.dumps(measure_run(*sys.argv[2:])))
    else:
        main()
