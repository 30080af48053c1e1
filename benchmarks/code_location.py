"""What a code location of many experiments costs: `build_definitions` against Definitions written by hand.

Ours reads YAML files of five stages (two built-in ones, three of a module, their options differing from file to
file), validates them, and makes the jobs, the assets and their Definitions. By hand, nothing is read: five ops per
job, each with a `dagster.Config` class that declares the options which the files set, and the job.

The snapshot is what a code server sends to the webserver and the daemon. Each measurement is a child process of its
own; memory is its peak.
"""

# Not `from __future__ import annotations`: Dagster reads the annotations of ops as classes.
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from measure import alternate, arguments, child_json, number, print_header, print_table, print_target, ratio

EXPERIMENT = """\
id: experiment_{n}
description: Experiment {n} of a code location of many.
tags: [benchmark, group_{group}]

pipeline:
  - name: load
    module: location_stages:Load
    options:
      dataset: dataset_{group}
      limit: {limit}

  - name: data_checks
    options:
      required_fields: [input, output]
      fail_fast: true

  - name: train
    module: location_stages:Train
    options:
      model: {model}
      learning_rate: {learning_rate}
      epochs: {epochs}

  - name: evaluate
    module: location_stages:Evaluate
    options:
      metrics: [accuracy, loss]
      folds: {folds}

  - name: bench
    options:
      paired: true
      tests: [paired_ttest, wilcoxon]
      alpha: {alpha}
"""


def settings(n: int) -> dict[str, Any]:
    """What differs between experiment files: every file trains in its own way, some other options recur."""
    return {
        "n": n,
        "group": n % 10,
        "limit": 1_000 + n,
        "model": ("svm", "logistic")[n % 2],
        "learning_rate": round(0.001 * (n + 1), 3),
        "epochs": 10 + n % 7,
        "folds": 5 + n % 3,
        "alpha": (0.05, 0.01)[n % 2],
    }


def write_files(folder: Path, count: int) -> None:
    for n in range(count):
        (folder / f"experiment_{n}.yaml").write_text(EXPERIMENT.format(**settings(n)))


# --- one measurement, in a child process --------------------------------------------------------------------------


def compiled(folder: str, _count: int) -> Any:
    from crucible_dagster import build_definitions

    return build_definitions(folder)


def by_hand(_folder: str, count: int) -> Any:
    from dagster import Definitions

    return Definitions(jobs=[job_by_hand(settings(n)) for n in range(count)])


def job_by_hand(values: Mapping[str, Any]) -> Any:
    import dagster as dg

    class LoadConfig(dg.Config):
        dataset: str = f"dataset_{values['group']}"
        limit: int = values["limit"]

    class ChecksConfig(dg.Config):
        required_fields: list[str] = ["input", "output"]  # noqa: RUF012  # Dagster copies it
        fail_fast: bool = True

    class TrainConfig(dg.Config):
        model: str = values["model"]
        learning_rate: float = values["learning_rate"]
        epochs: int = values["epochs"]

    class EvaluateConfig(dg.Config):
        metrics: list[str] = ["accuracy", "loss"]  # noqa: RUF012  # Dagster copies it
        folds: int = values["folds"]

    class BenchConfig(dg.Config):
        paired: bool = True
        tests: list[str] = ["paired_ttest", "wilcoxon"]  # noqa: RUF012  # Dagster copies it
        alpha: float = values["alpha"]

    n = values["n"]

    @dg.op(name=f"load_{n}")
    def load(config: LoadConfig) -> dict[str, Any]:
        return {"limit": config.limit}

    @dg.op(name=f"data_checks_{n}")
    def data_checks(upstream: dict[str, Any], config: ChecksConfig) -> dict[str, Any]:
        return {**upstream, "fields": config.required_fields}

    @dg.op(name=f"train_{n}")
    def train(upstream: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
        return {**upstream, "model": config.model}

    @dg.op(name=f"evaluate_{n}")
    def evaluate(upstream: dict[str, Any], config: EvaluateConfig) -> dict[str, Any]:
        return {**upstream, "folds": config.folds}

    @dg.op(name=f"bench_{n}")
    def bench(upstream: dict[str, Any], config: BenchConfig) -> dict[str, Any]:
        return {**upstream, "alpha": config.alpha}

    @dg.job(name=f"experiment_{n}")
    def experiment() -> None:
        bench(evaluate(train(data_checks(load()))))

    return experiment


KINDS: Mapping[str, Callable[[str, int], Any]] = {"by hand": by_hand, "compiled": compiled}


def measure_location(kind: str, folder: str, count: int) -> dict[str, float]:
    """Seconds for the definitions, seconds for their snapshot, peak MB of this process."""
    from dagster._core.remote_representation.external_data import RepositorySnap

    if kind == "compiled":
        from crucible_dagster import build_definitions  # noqa: F401  # as `import dagster` above: not measured

    sys.path.insert(0, str(Path(__file__).parent))
    started = time.perf_counter()
    definitions = KINDS[kind](folder, count)
    built = time.perf_counter()
    snapshot = RepositorySnap.from_def(definitions.get_repository_def())
    done = time.perf_counter()
    assert sum(not one.name.startswith("__") for one in snapshot.get_job_datas()) == count
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"build": built - started, "snapshot": done - built, "peak": peak}


# --- the table ----------------------------------------------------------------------------------------------------


def locations_of(count: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """For each kind: build, snapshot and peak, one value per round."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), count)
        found: dict[str, dict[str, list[float]]] = {}

        def run(kind: str) -> Callable[[], float]:
            def measured() -> float:
                one = child_json([__file__, "--one", kind, folder, str(count)])
                for what, value in one.items():
                    found.setdefault(kind, {}).setdefault(what, []).append(value)
                return float(one["build"])

            return measured

        alternate({kind: run(kind) for kind in KINDS}, rounds)
    return found


def main() -> None:
    given = arguments(__doc__ or "", rounds=5, quick=2)
    print_header(
        "A code location of many experiments", ["crucible-dagster", "dagster", "pydantic", "ruamel.yaml"], given.rounds
    )
    rows, ratios = [], {}
    for count in (10, 100) if given.quick else (10, 100, 1_000):
        found = locations_of(count, given.rounds)
        ratios[count] = {
            what: ratio({kind: found[kind][what] for kind in KINDS}, "compiled", "by hand")
            for what in ("build", "snapshot", "peak")
        }
        for what, unit in (("build", "definitions, s"), ("snapshot", "snapshot, s"), ("peak", "peak RSS, MB")):
            by_kind = [number(median(found[kind][what])) for kind in KINDS]
            rows.append([f"{count:,}: {unit}", *by_kind, f"{ratios[count][what]:.2f}"])
    print_table(["jobs", *KINDS, "compiled / by hand"], rows)
    for count, found_ratios in ratios.items():
        print_target(f"building {count:,} experiments against by hand", found_ratios["build"], 0.7)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure_location(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        main()
