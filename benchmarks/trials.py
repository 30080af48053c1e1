"""What a sweep costs: trials of 100 ms on two cores, and what the rows of many trials take.

The limit is a bare process pool of Python that runs the same function, in the same run. Our trials are run directly
(`jobs: 2`), and by one op of a Dagster job in this process.
"""

from __future__ import annotations

import logging
import tempfile
import time
import tracemalloc
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from dagster import DagsterInstance
from measure import alternate, arguments, number, print_header, print_table, print_target, ratio, seconds

from crucible_core import Context, Experiment, Registry, run_experiment, stage
from crucible_core.trials.log import FolderFiles, TrialLog
from crucible_dagster import execute_experiment

LIMIT = "a bare process pool (the limit)"
DIRECT = "`run_experiment`, two jobs"
DAGSTER = "Dagster, one op with two jobs"
SLEEP = 0.1
COLUMNS = 20


@stage
def wait(ctx: Context, *, amount: int = 0, seed: int = 0) -> Context:
    time.sleep(SLEEP)
    return ctx.put_metric("value", float(seed % 7 + amount))


@stage
def measure_much(ctx: Context, *, amount: int = 0, seed: int = 0) -> Context:
    for index in range(COLUMNS):
        ctx = ctx.put_metric(f"m{index}", float(seed % 7 + index + amount))
    return ctx


REGISTRY = Registry({"wait": wait, "measure_much": measure_much})


def experiment(name: str, trials: int, **more: Any) -> Experiment:
    table = {"grid": {f"{name}.amount": [0, 1]}, "replicates": trials // 2, **more}
    return Experiment.model_validate({"id": "sweep", "pipeline": [{"name": name}], "trials": table})


def pool(trials: int) -> float:
    def run() -> None:
        with ProcessPoolExecutor(2) as executor:
            list(executor.map(time.sleep, [SLEEP] * trials))

    return seconds(run)


def direct(trials: int) -> float:
    return seconds(lambda: run_experiment(experiment("wait", trials), registry=REGISTRY, jobs=2))


def on_dagster(trials: int) -> float:
    asked = experiment("wait", trials, jobs=2)
    with tempfile.TemporaryDirectory() as home, DagsterInstance.local_temp(home) as instance:
        return seconds(lambda: execute_experiment(asked, registry=REGISTRY, instance=instance))


def rates(trials: int, rounds: int) -> None:
    """Trials per second, and what share of the limit that is."""
    ways = {LIMIT: partial(pool, trials), DIRECT: partial(direct, trials), DAGSTER: partial(on_dagster, trials)}
    times = alternate(ways, rounds)
    print_table(
        ["way", "trials per second", "times the limit's seconds"],
        [[name, number(trials / median(times[name])), number(ratio(times, name, LIMIT))] for name in ways],
    )
    print_target(f"{DIRECT} against the limit, in seconds", ratio(times, DIRECT, LIMIT), 1 / 0.8)
    print_target(f"{DAGSTER} against the limit, in seconds", ratio(times, DAGSTER, LIMIT), 1 / 0.7)


def table_of_many(trials: int) -> None:
    """What the gathering of many rows takes above them, and how long stored rows take to be found again."""
    with tempfile.TemporaryDirectory() as folder:
        files, asked = FolderFiles(Path(folder)), experiment("measure_much", trials)
        made = seconds(lambda: run_experiment(asked, registry=REGISTRY, keep=folder))
        (run,) = files.children("trials/sweep")
        log = TrialLog(files, "sweep", run)
        keys = list(log.own_rows())
        found = seconds(lambda: log.rows(keys))
        tracemalloc.start()
        ctx = run_experiment(asked, registry=REGISTRY, keep=folder)
        table, peak = (size / 2**20 for size in tracemalloc.get_traced_memory())
        tracemalloc.stop()
        assert len(ctx.outputs) == trials
    print_table(
        [f"{trials:,} trials of {COLUMNS} numbers", ""],
        [
            ["run and kept, seconds", number(made)],
            ["found again, seconds", number(found)],
            ["rows in memory, MB", number(table)],
            ["peak above the rows, MB", number(peak - table)],
        ],
    )
    print_target("finding the rows again, seconds", found, 2)
    print_target("peak above the rows, MB", peak - table, 32)


def main() -> None:
    given = arguments(__doc__ or "", rounds=5, quick=1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print_header("Trials: what a sweep costs", ["crucible-dagster", "dagster", "joblib"], given.rounds)
    rates(40 if given.quick else 200, given.rounds)
    table_of_many(10_000 if given.quick else 100_000)


if __name__ == "__main__":
    main()
