"""The bootstrap interval of a mean: seconds beside scipy's, and the memory that one call takes above its data."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from measure import Times, alternate, arguments, number, print_header, print_table, print_target, ratio, seconds
from scipy import stats

from crucible_bench import run_test
from crucible_bench.hypothesis_tests.bootstrap_interval import bootstrap_interval

# Values and resamples: the first is the published figure's, the others draw about as many values in a second.
SIZES = ((1_000, 10_000), (10_000, 2_000), (100_000, 400), (1_000_000, 100))
BLOCK_UP_TO = 20_000_000  # so many values in one block of scipy's are 160 MB of positions and as much of values
BCA_UP_TO = 1_000  # scipy's jackknife is quadratic
OURS = "ours, percentile"
OURS_BCA = "ours, BCa"
MOST_TIMES = 1.5
MOST_MEGABYTES = 32.0


def contenders(values: Any, resamples: int) -> dict[str, Callable[[], Any]]:
    """What is timed, by name: each makes one 95 % interval of the mean of the values."""
    n = values.size
    scipy = partial(stats.bootstrap, (values,), np.mean, n_resamples=resamples)
    found: dict[str, Callable[[], Any]] = {
        OURS: partial(bootstrap_interval, np.mean, values, method="percentile", resamples=resamples),
        OURS_BCA: partial(bootstrap_interval, np.mean, values, resamples=resamples),
        "scipy, percentile, batches of 65,536 values": partial(scipy, method="percentile", batch=max(1, 2**16 // n)),
    }
    if n * 500 <= BLOCK_UP_TO:
        found["scipy, percentile, batch=500"] = partial(scipy, method="percentile", batch=500)
    if n * resamples <= BLOCK_UP_TO:
        found["scipy, percentile, one block"] = partial(scipy, method="percentile")
    if n <= BCA_UP_TO:
        found["scipy, BCa, batch=500"] = partial(scipy, method="BCa", batch=500)
    return found


def megabytes(call: Callable[[], Any]) -> float:
    """The most memory that one call held at once, in MB, its data not counted."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def scipys_best(times: Times) -> str:
    percentile = [name for name in times if name.startswith("scipy, percentile")]
    return min(percentile, key=lambda name: median(times[name]))


def main() -> None:
    given = arguments(__doc__ or "", rounds=15, quick=3)
    print_header("Bootstrap", ["crucible-dagster", "numpy", "scipy"], given.rounds)
    reached = []
    for n, resamples in SIZES:
        values = np.random.default_rng(1).normal(size=n)
        calls = contenders(values, resamples)
        for call in calls.values():
            call()
        times = alternate({name: partial(seconds, call) for name, call in calls.items()}, given.rounds)
        memory = {name: megabytes(call) for name, call in calls.items()}
        best = scipys_best(times)
        print(f"## {n:,} values, {resamples:,} resamples\n")
        print_table(
            ["interval of a mean", "seconds, median", "x scipy's fastest", "MB"],
            [
                [name, f"{median(found):.3f}", f"{ratio(times, name, best):.2f}", number(memory[name])]
                for name, found in times.items()
            ],
        )
        reached.append((n, ratio(times, OURS, best), max(memory[OURS], memory[OURS_BCA])))
    pair = {name: np.random.default_rng(seed).normal(size=1_000) for seed, name in enumerate("ab")}
    compared = partial(run_test, "bootstrap", pair)
    print(f"The test of two groups of 1,000 by 10,000 resamples takes {seconds(compared):.2f} seconds and")
    print(f"{megabytes(compared):.1f} MB.\n")
    for n, times_scipy, peak in reached:
        print_target(f"the time at {n:,} values, as a multiple of scipy's fastest,", times_scipy, MOST_TIMES)
        print_target(f"the memory at {n:,} values, in MB above the data,", peak, MOST_MEGABYTES)


if __name__ == "__main__":
    main()
