"""What a stage costs without Dagster: a linear pipeline of trivial stages, each of which adds one metric.

The floor is a bare loop that copies a small value at every stage, because a Context is a value: a frozen dataclass
with the same eight fields as Context, copied by `dataclasses.replace` with a new dict of metrics each time. Nobody
validates anything there, and nothing is recorded.

Every system gets its pipeline ready-made and is timed from the call that runs it: for `run_experiment` that includes
finding every stage and checking every option.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import Any

from measure import Times, alternate, arguments, number, print_header, print_table, print_target, ratio, seconds

from crucible_core import Context, Experiment, Registry, Stage, StageDef, plan_experiment, run_experiment, run_stage

FLOOR = "bare loop, copying a frozen dataclass (the floor)"
OURS = "`run_experiment` in full"
FOLD = "`run_stage` over planned stages"


# --- ours ---------------------------------------------------------------------------------------------------------


class AddMetric(Stage):
    """Adds one metric."""

    metric: str
    """Its name."""

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric(self.metric, 1.0)


REGISTRY = Registry({"add_metric": AddMetric})


def experiment_of(stages: int) -> Experiment:
    return Experiment(
        id="trivial",
        pipeline=tuple(
            StageDef(name=f"stage_{index}", module="add_metric", options={"metric": f"metric_{index}"})
            for index in range(stages)
        ),
    )


def ours(stages: int) -> Callable[[], Any]:
    return partial(run_experiment, experiment_of(stages), registry=REGISTRY)


def fold(stages: int) -> Callable[[], Any]:
    experiment = experiment_of(stages)
    planned = plan_experiment(experiment, REGISTRY)
    context = Context.begin(experiment, run_id="run")
    return lambda: reduce(lambda ctx, stage: run_stage(stage, ctx), planned, context)


# --- the bare loops -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Small:
    experiment_id: str = "trivial"
    run_id: str = "run"
    experiment: Any = None
    outputs: tuple[Any, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    trace: tuple[Any, ...] = ()
    assigns: Mapping[str, Any] = field(default_factory=dict)


def mutating_loop(stages: int) -> Callable[[], Any]:
    names = [f"metric_{index}" for index in range(stages)]

    def add_metric(metrics: dict[str, float], name: str) -> dict[str, float]:
        metrics[name] = 1.0
        return metrics

    return lambda: reduce(add_metric, names, {})


def copying_loop(stages: int) -> Callable[[], Any]:
    names = [f"metric_{index}" for index in range(stages)]

    def add_metric(value: Small, name: str) -> Small:
        return replace(value, metrics={**value.metrics, name: 1.0})

    return lambda: reduce(add_metric, names, Small())


# --- the peers ----------------------------------------------------------------------------------------------------


def sklearn_pipeline(stages: int, *, fitted: bool) -> Callable[[], Any]:
    """Fitted, it only transforms; otherwise it clones and fits every step first."""
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.pipeline import Pipeline

    class Adder(TransformerMixin, BaseEstimator):
        def __init__(self, metric: str = "") -> None:
            self.metric = metric

        def fit(self, _metrics: dict[str, float]) -> Adder:
            return self

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def transform(self, metrics: dict[str, float]) -> dict[str, float]:
            return {**metrics, self.metric: 1.0}

    pipeline = Pipeline([(f"stage_{index}", Adder(f"metric_{index}")) for index in range(stages)])
    return lambda: pipeline.transform({}) if fitted else pipeline.fit_transform({})


def hamilton_driver(stages: int) -> Callable[[], Any]:
    from hamilton import ad_hoc_utils, driver

    lines = ["def stage_0() -> dict:\n    return {'metric_0': 1.0}"]
    lines += [
        f"def stage_{index}(stage_{index - 1}: dict) -> dict:\n"
        f"    return {{**stage_{index - 1}, 'metric_{index}': 1.0}}"
        for index in range(1, stages)
    ]
    module = ad_hoc_utils.module_from_source("\n".join(lines))
    built = driver.Builder().with_modules(module).build()
    return lambda: built.execute([f"stage_{stages - 1}"])


def kedro_runner(stages: int, *, least: bool) -> Callable[[], Any]:
    """`least`: values are handed on as they are; otherwise as Kedro does by default, in copies."""
    from kedro.io import DataCatalog, MemoryDataset
    from kedro.pipeline import node, pipeline
    from kedro.runner import SequentialRunner

    for logger in ("kedro", "kedro.framework.project", "kedro.io", "kedro.runner"):
        logging.getLogger(logger).setLevel(logging.ERROR)

    def adder(metric: str) -> Callable[[dict[str, float]], dict[str, float]]:
        return lambda metrics: {**metrics, metric: 1.0}

    names = [f"metrics_{index}" for index in range(stages + 1)]
    nodes = pipeline(
        [
            node(adder(f"metric_{index}"), names[index], names[index + 1], name=f"stage_{index}")
            for index in range(stages)
        ]
    )
    mode = "assign" if least else None

    def run() -> Any:
        catalog = DataCatalog(datasets={name: MemoryDataset(copy_mode=mode) for name in names[1:] if least})
        catalog["metrics_0"] = MemoryDataset({}, copy_mode=mode)
        return SequentialRunner().run(nodes, catalog)

    return run


def dagster_in_process(stages: int) -> Callable[[], Any]:
    import dagster as dg

    def op_of(index: int) -> dg.OpDefinition:
        @dg.op(name=f"stage_{index}", ins={"metrics": dg.In()} if index else {}, out=dg.Out(io_manager_key="io"))
        def add_metric(**inputs: dict[str, float]) -> dict[str, float]:
            return {**inputs.get("metrics", {}), f"metric_{index}": 1.0}

        return add_metric

    ops = [op_of(index) for index in range(stages)]

    @dg.graph
    def trivial() -> None:
        metrics = ops[0]()
        for op in ops[1:]:
            metrics = op(metrics)

    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    job = trivial.to_job(resource_defs={"io": dg.mem_io_manager})

    def run() -> Any:
        with dg.DagsterInstance.ephemeral() as instance:
            return job.execute_in_process(instance=instance, run_config=quiet)

    return run


FAST: Mapping[str, Callable[[int], Callable[[], Any]]] = {
    "bare loop, mutating a dict": mutating_loop,
    FLOOR: copying_loop,
    FOLD: fold,
    OURS: ours,
    "scikit-learn `Pipeline.fit_transform`": partial(sklearn_pipeline, fitted=False),
    "scikit-learn `Pipeline.transform`, already fitted": partial(sklearn_pipeline, fitted=True),
    "Hamilton driver": hamilton_driver,
}
SLOW: Mapping[str, Callable[[int], Callable[[], Any]]] = {
    "Kedro `SequentialRunner`, values not copied": partial(kedro_runner, least=True),
    "Kedro `SequentialRunner`, as it comes": partial(kedro_runner, least=False),
    "Dagster `execute_in_process`, ephemeral instance": dagster_in_process,
}


# --- the tables ---------------------------------------------------------------------------------------------------

# The others take what they are given: nothing is checked, neither names nor options.
CHECKING = ("scikit-learn `Pipeline.fit_transform`", *SLOW)


def contenders(stages: int, *, quick: bool) -> dict[str, Callable[[], float]]:
    """The peers that are installed, each timed over one run (fast ones: the best of three)."""
    ready: dict[str, Callable[[], float]] = {}
    for name, make in {**FAST, **({} if quick and stages > 50 else SLOW)}.items():
        try:
            with contextlib.redirect_stdout(sys.stderr):  # where Kedro says how it will log
                run = make(stages)
                run()
        except ImportError as error:
            print(f"(left out, not installed: {name}: {error})\n")
            continue
        repeats = 3 if name in FAST else 1
        ready[name] = lambda run=run, repeats=repeats: min(seconds(run) for _ in range(repeats))
    return ready


def against_peers(stages: int, rounds: int, *, quick: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Microseconds per stage, and the multiple of the floor, by system."""
    ready = contenders(stages, quick=quick)
    times: Times = alternate({name: run for name, run in ready.items() if name in FAST}, rounds)
    # These take seconds, and are far from the others: few rounds say enough.
    slow = {name: run for name, run in ready.items() if name in SLOW}
    slow_times = alternate({**slow, FLOOR: ready[FLOOR]}, max(1, rounds // 10))
    cost = {name: min(found) / stages * 1e6 for name, found in {**slow_times, **times}.items()}
    multiples = {name: ratio(times if name in times else slow_times, name, FLOOR) for name in ready}
    return cost, multiples


def growth(rounds: int) -> dict[int, float]:
    """Microseconds per stage of `run_experiment`, by the length of the pipeline."""
    runs = {str(stages): partial(seconds, ours(stages)) for stages in (50, 500, 5_000)}
    return {int(name): min(times) / int(name) * 1e6 for name, times in alternate(runs, rounds).items()}


def outputs_one_by_one(rounds: int) -> dict[int, float]:
    """Seconds until so many outputs were added to one Context."""
    begun = Context.begin(experiment_of(1), run_id="run")

    def add(count: int) -> Context:
        return reduce(lambda ctx, index: ctx.add_output({"index": index}), range(count), begun)

    runs = {str(count): partial(seconds, partial(add, count)) for count in (25_000, 50_000, 100_000)}
    return {int(name): min(times) for name, times in alternate(runs, rounds).items()}


def points_of_a_series(rounds: int) -> float:
    """Microseconds for a point of a series of 100,000, in a stage that nobody observes."""
    count = 100_000

    class Log(Stage):
        def run(self, ctx: Context) -> Context:
            return reduce(lambda ctx, step: ctx.log_metric("loss", 0.5, step=step), range(count), ctx)

    experiment = Experiment(id="trivial", pipeline=(StageDef(name="log"),))
    run = partial(run_experiment, experiment, registry=Registry({"log": Log}))
    return min(alternate({"log": partial(seconds, run)}, rounds)["log"]) / count * 1e6


def main() -> None:
    given = arguments(__doc__ or "", rounds=40, quick=8)
    warnings.simplefilter("ignore")
    packages = ["crucible-dagster", "scikit-learn", "apache-hamilton", "kedro", "dagster"]
    print_header("Direct runs: what a stage costs", packages, given.rounds)

    costs, multiples = {}, {}
    for stages in (50, 500):
        costs[stages], multiples[stages] = against_peers(stages, given.rounds, quick=given.quick)
    print_table(
        ["system", "µs per stage, 50 stages", "x floor", "µs per stage, 500 stages", "x floor"],
        [
            [
                name,
                *(
                    number(values[stages][name]) if name in costs[stages] else ""
                    for stages in (50, 500)
                    for values in (costs, multiples)
                ),
            ]
            for name in [*FAST, *SLOW]
            if name in costs[50]
        ],
    )
    per_stage = growth(max(3, given.rounds // 4))
    print_table(["`run_experiment`, stages", "µs per stage"], [[f"{n:,}", number(us)] for n, us in per_stage.items()])
    added = outputs_one_by_one(max(3, given.rounds // 8))
    print_table(
        ["outputs added one by one", "seconds", "µs each"],
        [[f"{count:,}", number(time), number(time / count * 1e6)] for count, time in added.items()],
    )

    for stages in (50, 500):
        what = f"`run_experiment` against the floor, {stages} stages"
        print_target(what, multiples[stages][OURS], 3, acceptable=5)
    peers = {name: cost for name, cost in costs[50].items() if name in CHECKING}
    fastest = min(peers, key=peers.__getitem__, default=None)
    if fastest:
        print_target(
            f"`run_experiment` against the fastest peer that checks its input ({fastest})",
            costs[50][OURS] / peers[fastest],
            1,
        )
    print_target("cost per stage at 5,000 stages against 50", per_stage[5_000] / per_stage[50], 1.1)
    print_target("100,000 outputs against 25,000 (linear is 4, quadratic 16)", added[100_000] / added[25_000], 5)
    print_target("µs for a point of a series, when nobody listens", points_of_a_series(max(3, given.rounds // 8)), 3)


if __name__ == "__main__":
    main()
