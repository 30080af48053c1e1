"""What a Dagster run costs: a compiled experiment of five trivial stages against the same five ops written by hand.

Every run happens in a process of its own with a fresh SQLite instance, as a run worker does it, and is measured by
its run window (from Dagster's start to its end of the run, as the UI shows it); "again" is the second run of such a
process. In its first run a process imports what it needs, in the later ones it does not. A further step is one after
the first: without the import of everything that the first step waits for.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from measure import Times, alternate, arguments, child_json, number, print_header, print_table, print_target, ratio

STEPS = 5
JOBS = ("by hand", "compiled")
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
    """The run windows of the first and the second run of this process, and what each step after the first takes."""
    import dagster as dg

    config = json.loads(json.dumps(EXECUTORS[executor]))
    if executor == PRELOADED:
        from crucible_dagster.dagster_internals import PRELOADED_MODULES

        config["multiprocess"]["start_method"]["forkserver"]["preload_modules"] = list(PRELOADED_MODULES)
    reconstructable = by_hand() if job == "by hand" else compiled()
    run_config = {"execution": {"config": config}, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    quiet = {"telemetry": {"enabled": False}}
    measured: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as home, dg.DagsterInstance.local_temp(home, overrides=quiet) as instance:
        for which in ("first", "again") if executor == "in-process" else ("first",):
            with dg.execute_job(reconstructable, instance=instance, run_config=run_config, raise_on_error=True) as done:
                run = instance.get_run_stats(done.run_id)
                ends = sorted(step.end_time for step in instance.get_run_step_stats(done.run_id))
            measured[which] = run.end_time - run.start_time
            measured["further step"] = (ends[-1] - ends[0]) / (STEPS - 1)
    return measured


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


def measure_all(rounds: int, executors: Sequence[str]) -> Times:
    """Seconds by "what, job, executor"; `what` is first, again or further step."""
    found: Times = {}

    def run(job: str, executor: str) -> Callable[[], float]:
        def measured() -> float:
            one = child_json([__file__, "--one", job, executor])
            for what, value in one.items():
                found.setdefault(f"{what}, {job}, {executor}", []).append(value)
            return float(one["first"])

        return measured

    alternate({f"{job}, {name}": run(job, name) for name in executors for job in JOBS}, rounds)
    return found


def main() -> None:
    given = arguments(__doc__ or "", rounds=5, quick=2)
    print_header("Dagster runs: what a step costs", ["crucible-dagster", "dagster"], given.rounds)
    # Runs in one process are short, and near each other: three times the rounds.
    times = measure_all(given.rounds * 3, ["in-process"])
    times |= measure_all(given.rounds, [name for name in EXECUTORS if name != "in-process"])

    rows, ratios = [], {}
    for executor in EXECUTORS:
        for what in ("first", "again") if executor == "in-process" else ("first",):
            name = executor if what == "first" else f"{executor}, again"
            ratios[name] = ratio(times, f"{what}, compiled, {executor}", f"{what}, by hand, {executor}")
            windows = [median(times[f"{what}, {job}, {executor}"]) for job in JOBS]
            further = [median(times[f"further step, {job}, {executor}"]) for job in JOBS]
            rows.append([name, *map(number, windows), f"{ratios[name]:.2f}", *map(number, further)])
    columns = ["run window, s", "by hand", "compiled", "compiled / by hand", "further step, by hand", "compiled"]
    print_table(columns, rows)

    for name, found in ratios.items():
        print_target(f"compiled against by hand, {name}", found, 1.10)
    spawn = median(times[f"first, by hand, {SPAWN}"])
    ours = median(times["first, compiled, in-process"])
    print_target("our default for a pipeline (in-process) as a part of Dagster's default (spawn)", ours / spawn, 0.1)
    trials, further = f"first, compiled, {PRELOADED}", f"further step, compiled, {PRELOADED}"
    part = ratio(times, trials, f"first, by hand, {SPAWN}")
    print_target("our default for trials (forkserver, preloaded) as a part of spawn", part, 0.25)
    print_target("our default for trials, s per step, the server's start included", median(times[trials]) / STEPS, 0.5)
    print_target("our default for trials, s per further step", median(times[further]), 0.5)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        sys.path.insert(0, str(Path(__file__).parent))
        print(json.dumps(measure_run(*sys.argv[2:])))
    else:
        main()
