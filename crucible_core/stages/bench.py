"""The `bench` stage: the comparison of groups of numbers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field

from crucible_core.context import Context
from crucible_core.experiment import Experiment
from crucible_core.stage import Stage
from crucible_core.vocabulary import (
    EFFECT_SIZES,
    TEST_ALIASES,
    TESTS_OF_DESIGN,
    CorrectionName,
    EffectSizeName,
    TestName,
    TestSpelling,
)
from crucible_core.wording import closest, listing

if TYPE_CHECKING:
    from crucible_core.stats import TestResult

__all__ = ["Bench"]

SOURCES = ("assigns", "metrics", "outputs")
MIN_RESAMPLES = 100


class Bench(Stage):
    """Compares groups of numbers with statistical tests.

    The groups are a mapping of name to numbers, `{"control": [...], "treatment": [...]}`, found in
    `assigns["bench_data"]` unless `data` says otherwise. `metrics["bench"]` gets the result: per group n, mean, sd and
    median; per test its statistic, p-value (raw and adjusted for the family of tests), estimate and effect size with
    their intervals, and what was assumed. What an option leaves open is taken from the experiment's
    `reliability.stats`. A test that the data do not allow fails the stage and says why.
    """

    data: str = "assigns.bench_data"
    """Where the groups are: `assigns.NAME`, `metrics.NAME`, or `outputs` (with `group_by` and `value`)."""
    group_by: str | None = None
    """With `data: outputs`: the field of each output that names its group."""
    value: str | None = None
    """With `data: outputs`: the field of each output that holds its number."""
    pair_by: str | None = None
    """With `data: outputs` and `paired: true`: the field that says which values belong together, such as the fold."""
    groups: list[str] | None = Field(default=None, min_length=2)
    """The groups to compare, in this order; all of them unless said."""
    paired: bool = False
    """Value i of every group belongs together: the same fold, example or seed."""
    tests: list[TestSpelling] | None = Field(default=None, min_length=1)
    """The tests to run; a t test for two groups or one-way ANOVA for more, unless said."""
    alpha: float | None = Field(default=None, gt=0, lt=1)
    """Level of significance, for the whole family; 0.05 unless said."""
    confidence_level: float | None = Field(default=None, gt=0, lt=1)
    """Of every interval; 1 - alpha unless said."""
    effect_size: EffectSizeName | None = None
    """Reported by the tests that define it; the others keep their own."""
    correction: CorrectionName | None = None
    """Adjustment of the p-values when there are several tests; holm unless said."""
    resamples: int | None = Field(default=None, ge=MIN_RESAMPLES)
    """Of the bootstrap; 10,000 unless said."""
    seed: int = Field(default=0, ge=0)
    """Of whatever is drawn at random: the same seed gives the same numbers."""
    measure: str | None = None
    """What the numbers are, for the report: accuracy, say; with `data: outputs`, the name in `value` unless said."""
    metric: str = "bench"
    """The metric that takes the result; several `bench` stages need one each."""

    def check(self, experiment: Experiment) -> Iterable[str]:
        if importlib.util.find_spec("scipy") is None:
            yield "comparing needs the extra 'stats': pip install 'crucible-dagster[stats]'"
        source, _, name = self.data.partition(".")
        if source not in SOURCES or (source == "outputs") == bool(name):
            yield f"data: {self.data!r} is none of assigns.NAME, metrics.NAME or outputs"
        if source == "outputs" and not (self.group_by and self.value):
            yield "data: outputs needs group_by and value, the fields that hold the group's name and the number"
        if self.pair_by and not (source == "outputs" and self.paired):
            yield "pair_by: is for data: outputs with paired: true"
        tests = self.tests or experiment.stats.tests or ()
        named = [TEST_ALIASES.get(test, cast("TestName", test)) for test in tests]
        if self.effect_size and named and not any(self.effect_size in EFFECT_SIZES[test] for test in named):
            yield f"effect_size: none of the tests {', '.join(named)} defines {self.effect_size}"
        iterations = self.resamples or experiment.stats.bootstrap_iterations
        if iterations is not None and iterations < MIN_RESAMPLES:
            yield f"reliability.stats.bootstrap_iterations: {iterations} is fewer than {MIN_RESAMPLES}"
        independent = [test for test in named if test not in TESTS_OF_DESIGN["paired"]]
        if self.paired and independent:
            yield (
                f"paired: true, but {', '.join(independent)} would ignore the pairing; "
                f"the paired tests are {listing(TESTS_OF_DESIGN['paired'])}"
            )

    def run(self, ctx: Context) -> Context:
        from crucible_core.stats import adjust_p_values, summarize  # noqa: PLC0415  # scipy takes a second to load

        if ctx.has_metric(self.metric):
            raise ValueError(f"metrics[{self.metric!r}] exists already; give this bench stage a `metric` of its own")
        groups = self.read_groups(ctx)
        ctx, tests, alpha = self._settings(ctx, groups)
        ctx, results = self._run_tests(ctx, tests, groups, alpha)
        correction = self.correction or ctx.experiment.stats.multiple_testing_correction or "holm"
        adjusted: Sequence[float | None] = [None] * len(results)
        if len(results) > 1:
            adjusted = adjust_p_values([result.p_value for result in results], correction)
            ctx = ctx.decide(
                f"correction: {correction}",
                f"{len(results)} tests were run on the same data, and one of them could be significant by chance alone",
                alternatives=[name for name in ("holm", "bonferroni", "fdr", "none") if name != correction],
            )
        return ctx.put_metric(
            self.metric,
            {
                "alpha": alpha,
                "correction": correction if len(results) > 1 else None,
                "family_size": len(results),
                "measure": self.measure or self.value,
                "paired": all(test in TESTS_OF_DESIGN["paired"] for test in tests),
                "groups": {name: summarize(values).to_dict() for name, values in groups.items()},
                "tests": {
                    result.test: _report(result, p_adjusted, alpha)
                    for result, p_adjusted in zip(results, adjusted, strict=True)
                },
            },
        )

    def _settings(self, ctx: Context, groups: Mapping[str, Any]) -> tuple[Context, list[TestName], float]:
        from crucible_core.stats import canonical_test_name  # noqa: PLC0415

        stats = ctx.experiment.stats
        asked = self.tests or stats.tests
        if asked:
            tests = list(dict.fromkeys(canonical_test_name(test) for test in asked))
        elif self.paired and len(groups) > 2:
            raise ValueError(
                f"there are {len(groups)} paired groups ({', '.join(groups)}), and the paired tests compare two: "
                "choose two of them with `groups`"
            )
        else:
            tests = ["paired_ttest" if self.paired else "ttest"] if len(groups) == 2 else ["anova"]
            ctx = ctx.decide(
                f"test: {tests[0]}",
                f"no test was asked for; there are {len(groups)} {'paired' if self.paired else 'independent'} groups",
                alternatives=["wilcoxon" if self.paired else "mann_whitney" if len(groups) == 2 else "kruskal_wallis"],
            )
        alpha = self.alpha or stats.alpha
        if alpha is None:
            alpha = 0.05
            ctx = ctx.decide("alpha: 0.05", "no level of significance was declared; this is the usual one")
        return ctx, tests, alpha

    def _run_tests(
        self, ctx: Context, tests: list[TestName], groups: Mapping[str, Any], alpha: float
    ) -> tuple[Context, list[TestResult]]:
        from crucible_core.stats import run_test  # noqa: PLC0415

        stats = ctx.experiment.stats
        effect_size = self.effect_size or stats.effect_size_type
        results = []
        for test in tests:
            result = run_test(
                test,
                groups,
                alpha=alpha,
                confidence_level=self.confidence_level or stats.confidence_level,
                effect_size=effect_size if effect_size in EFFECT_SIZES[test] else None,
                resamples=self.resamples or stats.bootstrap_iterations or 10_000,
                seed=self.seed,
            )
            for choice in result.decisions:
                ctx = ctx.decide(f"{test}: {choice.decision}", choice.reasoning, alternatives=choice.alternatives)
            results.append(result)
        return ctx, results

    def read_groups(self, ctx: Context) -> dict[str, Any]:
        """The groups that this stage compares, by name, in order; also of a run that is over.

        Raises ValueError or TypeError if they are not there.
        """
        found = self._from_outputs(ctx) if self.data == "outputs" else self._from_mapping(ctx)
        if self.groups is None:
            return found
        unknown = [name for name in self.groups if name not in found]
        if unknown:
            raise ValueError(
                f"there is no group {unknown[0]!r} in {self.data}{closest(unknown[0], found)}; groups: {listing(found)}"
            )
        return {name: found[name] for name in self.groups}

    def _from_mapping(self, ctx: Context) -> dict[str, Any]:
        source, _, name = self.data.partition(".")
        held: Mapping[str, Any] = getattr(ctx, source)
        if name not in held:
            raise ValueError(
                f"there is nothing to compare: no stage before this one put {source}[{name!r}]"
                f"{closest(name, held)}; {source}: {listing(held)}"
            )
        groups = held[name]
        if not isinstance(groups, Mapping):
            raise TypeError(f"{source}[{name!r}] is no mapping of group name to numbers but {groups!r:.80}")
        return {str(group): values for group, values in groups.items()}

    def _from_outputs(self, ctx: Context) -> dict[str, Any]:
        fields = [name for name in (self.group_by, self.value, self.pair_by) if name]
        groups: dict[str, dict[Any, Any]] = {}
        names: dict[str, Any] = {}
        for index, output in enumerate(ctx.outputs):
            if not isinstance(output, Mapping) or any(name not in output for name in fields):
                raise ValueError(f"output {index} lacks one of {', '.join(map(repr, fields))}: {output!r:.80}")
            name = output[self.group_by]
            if names.setdefault(str(name), name) != name:
                raise ValueError(f"two groups read alike: {names[str(name)]!r} and {name!r}")
            group = groups.setdefault(str(name), {})
            pair = output[self.pair_by] if self.pair_by else index
            if pair in group:
                raise ValueError(f"two outputs of group {name!r} have {self.pair_by} {pair!r}")
            group[pair] = output[self.value]
        if not groups:
            raise ValueError("there is nothing to compare: no stage before this one added an output")
        if self.pair_by:
            groups = _in_pairs(groups, self.pair_by)
        return {name: list(group.values()) for name, group in groups.items()}


def _in_pairs(groups: Mapping[str, dict[Any, Any]], pair_by: str) -> dict[str, dict[Any, Any]]:
    """The groups in the order of the first one's pairs. Raises ValueError if a group lacks a pair of another."""
    pairs = list(dict.fromkeys(pair for group in groups.values() for pair in group))
    for name, group in groups.items():
        missing = [pair for pair in pairs if pair not in group]
        if missing:
            raise ValueError(f"group {name!r} has no output with {pair_by} {missing[0]!r} ({len(missing)} are missing)")
    return {name: {pair: group[pair] for pair in pairs} for name, group in groups.items()}


def _report(result: TestResult, p_adjusted: float | None, alpha: float) -> dict[str, Any]:
    report = result.to_dict()
    report.pop("decisions")  # they are in the trace
    report.pop("alpha")
    if p_adjusted is not None:
        report |= {"p_adjusted": p_adjusted, "significant": p_adjusted <= alpha}
    return report
