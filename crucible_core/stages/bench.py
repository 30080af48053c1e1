"""The `bench` stage: the comparison of groups of numbers."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from crucible_bench.declaration import Declaration
from crucible_bench.errors import CannotTestError
from crucible_bench.result import Choice
from crucible_bench.vocabulary import (
    CORRECTION_ALIASES,
    EFFECT_SIZES,
    TEST_ALIASES,
    TESTS_OF_DESIGN,
    Alternative,
    Comparing,
    CorrectionName,
    CorrectionSpelling,
    Design,
    EffectSizeName,
    FamilyName,
    MissingValues,
    Outcome,
    Scale,
    StudyName,
    TestName,
    TestSpelling,
)
from crucible_core.context import Context
from crucible_core.ir.experiment import Experiment
from crucible_core.stage import Stage
from crucible_core.stages.bench_data import (
    SOURCES,
    ComparedGroups,
    GroupsInMapping,
    GroupsInOutputs,
    field_of_items,
    records_in,
)
from crucible_core.values.messages import closest, listing

if TYPE_CHECKING:
    from crucible_bench.compared import PlannedPower
    from crucible_bench.comparison import Comparison
    from crucible_bench.data.missing import MissingValue
    from crucible_bench.decisions.differences import Differences

__all__ = ["Bench", "PlannedComparison"]

MIN_RESAMPLES = 100
MOST_DROPPED = 1_000
MOST_NAMED = 20
MOST_POSITIONS = 8
_OF_MANY = ("ablation", "sweep")
_UNPAIRED = ("independent", "one_sample", "stratified")
_OF_PREFERENCES = frozenset(
    {
        *("alpha", "baseline", "confidence_level", "correction", "data", "groups", "measure", "metric", "missing"),
        "preferences",
    }
)


class PlannedComparison(BaseModel):
    """The effect that a comparison should be able to see, declared before the run."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    n: int = Field(ge=2)
    """Replicates planned per group: values, pairs, folds or clusters."""
    smallest_effect: float = Field(gt=0)
    """The smallest effect of interest: standardized (Cohen's d, d_z for pairs, f for many groups), or with `outcome:
    binary` a difference of shares."""
    baseline: float | None = Field(default=None, gt=0, lt=1)
    """With `outcome: binary`: the share of successes to start from (default: around one half, where power is least)."""
    discordant: float | None = Field(default=None, gt=0, lt=1)
    """With `outcome: binary` and pairs: the share of pairs expected to differ (default: as if independent)."""
    power: float = Field(default=0.8, gt=0, lt=1)
    """The probability with which that effect should be seen."""


class PreferenceFields(BaseModel):
    """The fields of comparisons of two arms, one mapping each."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    first: str = "first"
    """The field with the name of the arm that was shown first."""
    second: str = "second"
    """The field with the name of the other arm."""
    winner: str = "winner"
    """The field with the winner: the name of an arm or of its field, or a word for a tie."""
    judge: str | None = None
    """The field with the name of the judge."""
    item: str | None = None
    """The field with what was judged, such as the prompt; comparisons of one item are not independent."""
    ties: list[str] = Field(default=["tie"], min_length=1)
    """The words for a tie."""


class Bench(Stage):
    """Compares groups of numbers with statistical tests.

    The groups are a mapping of name to numbers, `{"control": [...], "treatment": [...]}`, by default in
    `assigns["bench_data"]`. `metrics["bench"]` gets the result. Per group: n, mean, sd and median. Per test: its
    statistic, p-value (raw and adjusted for the family of tests), estimate and effect size with their intervals, and
    its assumptions. For more than two groups: the family of pairs. With a margin: verdicts. An option that is not set
    takes its value from the experiment's `reliability.stats`, if that has one. If the data do not allow a test, the
    stage fails and says why. Outcomes may be booleans, or counts `{"successes": k, "n": n}`.
    """

    gathers: ClassVar[bool] = True

    instead: ClassVar[Mapping[str, str]] = {
        "data_source": "write `data: outputs` with `group_by` and `value`, or `data: metrics.NAME`",
        "options": "write `resamples` for its bootstrap_iterations, or put it into `reliability.stats.options`",
    }

    data: str = "assigns.bench_data"
    """Where the groups are: `assigns.NAME`, `metrics.NAME`, or `outputs` (with `group_by` and `value`)."""
    group_by: str | None = None
    """With `data: outputs`: the field of each output that names its group."""
    value: str | None = None
    """With `data: outputs`: the field of each output that holds its number."""
    pair_by: str | None = None
    """With `data: outputs`: the field by which values belong together, such as the fold."""
    clusters: str | None = None
    """With `design: clustered`: where the cluster of each value is, `assigns.NAME`, or a field of the outputs. Groups
    may have different numbers of values in a cluster, such as answers to a question."""
    strata: str | None = None
    """With `design: stratified`: where the task of each score is, `assigns.NAME`, or a field of the outputs. Each group
    has the same tasks, each with as many seeds as the others: interquartile means are compared."""
    pass_at: int | None = Field(default=None, ge=1)
    """With several answers to each item, right or wrong: compares pass@k, the chance that one of this many answers is
    right, item by item. The item is the field `pair_by`, or else the cluster."""
    majority_at: int | None = Field(default=None, ge=1)
    """The same for majority@k: the chance that the most frequent of this many answers is right."""
    expected: str | None = None
    """With `majority_at` and `data: outputs`: the field that holds an item's right answer; `value` is then the field
    with the text of the answer (default: `value` says whether the answer is right)."""
    preferences: PreferenceFields | None = None
    """Compares arms by preferences: the data are comparisons of two arms, each with a winner or a tie."""
    groups: list[str] | None = Field(default=None, min_length=1)
    """The groups to compare, in this order (default: all of them)."""
    design: Design | None = None
    """How the values of the groups belong together (default: the design of the declared tests, else independent)."""
    paired: bool = False
    """The same as `design: paired`: value i of every group comes from the same fold, example or seed."""
    outcome: Outcome | None = None
    """The kind of the values (default: binary for booleans, counts and numbers all 0 or 1, else continuous)."""
    scale: Scale = "linear"
    """`log` compares logarithms, for times, sizes and costs: differences are ratios of geometric means."""
    tests: list[TestSpelling] | None = Field(default=None, min_length=1)
    """The tests to run (default: `auto`, which chooses by design, outcome and sizes)."""
    alternative: Alternative = "two-sided"
    """`greater` asks whether the first group (or each group, compared with the baseline) is higher."""
    alpha: float | None = Field(default=None, gt=0, lt=1)
    """Significance level, for the whole family of tests (default: 0.05)."""
    confidence_level: float | None = Field(default=None, gt=0, lt=1)
    """Confidence level of every interval (default: 1 - alpha)."""
    effect_size: EffectSizeName | None = None
    """The effect size to report. A test that does not define it reports its own (default: each test's own)."""
    correction: CorrectionSpelling | None = None
    """Adjustment of the p-values if there are several tests or pairs (default: holm)."""
    study: StudyName | None = None
    """The shape of the study, which determines what is compared with what."""
    compare: Comparing | None = None
    """Which pairs of more than two groups are compared: all pairs, or each group with the baseline."""
    family: FamilyName | None = None
    """How the pairs are judged together (default: by design and outcome)."""
    baseline: str | None = None
    """The group that the others are compared with: control, full system, what is deployed."""
    margin: float | None = Field(default=None, gt=0)
    """The smallest difference that matters, in units of the data. With it, each pair gets a verdict."""
    non_inferiority: bool = False
    """With a margin: whether "not worse by the margin" is a verdict too."""
    rope: float | None = Field(default=None, gt=0)
    """With `design: paired` or `resampled`: the region of practical equivalence, in units of the data. Each pair gets
    Bayesian probabilities beside its test: that the first is better by more than that, that the second is, or neither.
    """
    higher_is_better: bool = True
    """Which direction is good, for verdicts, sweeps and rankings."""
    leaderboard: bool = False
    """Whether the groups are also ranked by their means, and which may be the best is shown, as in a sweep."""
    reference: float | None = None
    """With `design: one_sample`: the number that the one group is compared with."""
    quantile: float | None = Field(default=None, gt=0, lt=1)
    """Compares this quantile of each group in place of the mean: 0.95 for the 95th percentile, as of latencies. For
    `design: independent` and `paired`."""
    folds: int | None = Field(default=None, ge=2)
    """With `design: resampled`: the number of folds of the cross-validation."""
    repeats: int | None = Field(default=None, ge=1)
    """With `folds`: how often the cross-validation was repeated (default: once)."""
    test_share: float | None = Field(default=None, gt=0)
    """With `design: resampled`, for random splits: the size of a test set over that of its training set (default:
    1 / (folds - 1))."""
    missing: MissingValues = "refuse"
    """What happens to missing values and pairs: `refuse` fails the stage, `drop` leaves them out and lists them."""
    planned: PlannedComparison | None = None
    """The effect that the comparison should be able to see; `validate` warns if it cannot."""
    resamples: int | None = Field(default=None, ge=MIN_RESAMPLES)
    """Number of resamples of the bootstrap and of permutation tests (default: 10,000)."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything that is drawn at random: the same seed gives the same numbers."""
    measure: str | None = None
    """The name of the numbers in the report, such as accuracy (default: with `data: outputs`, the name in `value`)."""
    metric: str = "bench"
    """The metric that gets the result; each of several `bench` stages needs its own."""

    def check(self, experiment: Experiment) -> Iterable[str]:
        if importlib.util.find_spec("scipy") is None:
            yield "comparing needs the extra 'stats': pip install 'crucible-dagster[stats]'"
        if self.preferences is not None:
            yield from self._problems_of_preferences()
            return
        yield from self._problems_of_data(self._declared_design(experiment))
        yield from self._problems_of_answers(self._declared_design(experiment))
        if self.paired and self.design not in (None, "paired"):
            yield f"design: {self.design}, but paired: true"
        named = self.groups or []
        twice = next((name for place, name in enumerate(named) if name in named[:place]), None)
        if twice is not None:
            yield f"groups: {twice!r} is named twice"
        if named and self.baseline is not None and self.baseline not in named:
            yield f"baseline: {self.baseline!r} is not among the groups {listing(named)}{closest(self.baseline, named)}"
        iterations = self.resamples or experiment.stats.resamples
        if iterations is not None and iterations < MIN_RESAMPLES:
            place = "" if experiment.stats.bootstrap_iterations else "options."
            yield f"reliability.stats.{place}bootstrap_iterations: {iterations} is fewer than {MIN_RESAMPLES}"
        in_units = (self.margin, self.rope, self.reference)
        if self.scale == "log" and self.strata is not None:
            yield "scale: log has no ratios of interquartile means; leave it out, or normalize the scores of each task"
        if self.scale == "log" and (self.outcome == "binary" or any(number is not None for number in in_units)):
            yield "scale: log compares positive numbers by ratios: no margin, rope, reference or binary outcome"
        yield from self._several_designs(experiment)
        yield from self.declaration(experiment).problems()

    def _several_designs(self, experiment: Experiment) -> Iterator[str]:
        """What to write for tests of several designs, which the original runs together on the same groups."""
        fitting = TESTS_OF_DESIGN[self._declared_design(experiment)]
        others = [test for test in self._tests(experiment) if test != "auto" and test not in fitting]
        if others and len(others) < len(self._tests(experiment)):
            yield (
                f"tests: {listing(others)}: another design is another comparison, so it needs a stage of its own: "
                "`{name: other, module: bench, options: {tests: [" + others[0] + "], metric: other}}`"
            )

    def _problems_of_preferences(self) -> Iterator[str]:
        for name, field in type(self).model_fields.items():
            if name not in _OF_PREFERENCES and getattr(self, name) != field.get_default(call_default_factory=True):
                yield f"{name}: preferences do not take it; they take {listing(sorted(_OF_PREFERENCES))}"
        if self.data.partition(".")[0] not in SOURCES:
            yield f"data: {self.data!r} is not one of assigns.NAME, metrics.NAME or outputs"
        if self.groups and self.baseline is not None and self.baseline not in self.groups:
            yield f"baseline: {self.baseline!r} is not among the groups {listing(self.groups)}"

    def advise(self, experiment: Experiment) -> Iterable[str]:
        if self.planned is not None and importlib.util.find_spec("scipy") is not None:
            from crucible_bench.power.planned_power import foresee  # noqa: PLC0415  # scipy takes a second to load

            count = len(self.groups) if self.groups else 1 if self._design(experiment) == "one_sample" else 2
            planned, declared = self.planned, self.declaration(experiment)
            if declared.outcome is None and (planned.baseline is not None or planned.discordant is not None):
                declared = replace(declared, outcome="binary")
            if self.groups is None and (declared.comparing == "all_pairs" or self.study in _OF_MANY):
                yield "planned: two groups are assumed, because `groups` does not name them"
            yield from foresee(declared, count, **planned.model_dump())

    def declaration(self, experiment: Experiment) -> Declaration:
        """The declaration of this stage; options that are not set come from the experiment."""
        stats = experiment.stats
        tests = self._tests(experiment)
        effect_size = self.effect_size
        if (
            effect_size is None
            and self.quantile is None
            and any(test == "auto" or stats.effect_size_type in EFFECT_SIZES[test] for test in tests)
        ):
            effect_size = stats.effect_size_type
        return Declaration(
            design=self._design(experiment),
            outcome=self.outcome or ("continuous" if self.scale == "log" else None),  # the logarithm of 1 is 0
            tests=tuple(dict.fromkeys(tests)),
            alternative=self.alternative,
            alpha=self.alpha or stats.alpha or 0.05,
            confidence_level=self.confidence_level or stats.confidence_level,
            effect_size=effect_size,
            correction=self._correction(experiment),
            study=self.study,
            compare=self._compare(tests),
            family=self.family,
            baseline=self.baseline,
            margin=self.margin,
            non_inferiority=self.non_inferiority,
            rope=self.rope,
            higher_is_better=self.higher_is_better,
            leaderboard=self.leaderboard,
            reference=self.reference,
            quantile=self.quantile,
            folds=self.folds,
            repeats=self.repeats,
            test_share=self.test_share,
            resamples=self.resamples or stats.resamples or 10_000,
            seed=self.seed,
        )

    def run(self, ctx: Context) -> Context:
        from crucible_bench.analysis import analyse  # noqa: PLC0415  # scipy takes a second to load
        from crucible_bench.evaluations.answers import with_answers  # noqa: PLC0415
        from crucible_bench.log_scale import as_ratios, logarithms  # noqa: PLC0415

        if ctx.has_metric(self.metric):
            raise CannotTestError(
                "bench", f"metrics[{self.metric!r}] exists already; give this bench stage a `metric` of its own"
            )
        if self.alpha is None and ctx.experiment.stats.alpha is None:
            ctx = ctx.decide("alpha: 0.05", "no level of significance was declared; 0.05 is the usual one")
        ctx = self._registered(ctx)
        if self.preferences is not None:
            return self._prefer(ctx, self.preferences)
        found, missing = self._complete(ctx)
        dropped = [f"group {place.group!r}, position {place.position}: {place.reason}" for place in missing]
        for name in found.empty:
            ctx = ctx.decide(f"without {name}", "it has no value to compare")
            dropped.append(f"group {name!r}: it has no value")
        values = logarithms(found.values) if self.scale == "log" else found.values
        comparison = analyse(values, self.declaration(ctx.experiment), clusters=found.clusters)
        if self.scale == "log":
            comparison = as_ratios(comparison)
        if found.answers is not None:
            of_items = found.clusters_of(next(iter(found.values)))
            comparison = with_answers(comparison, found.values, found.answers, of_items)
            dropped += found.items_left_out
            if self.compare is None and comparison.comparisons is not None and self.study is None:
                of_pairs = Choice("all_pairs", "arms are compared item by item, two at a time", ("baseline",))
                comparison = replace(comparison, choices=(("compare", of_pairs), *comparison.choices))
        if self.groups is None and comparison.baseline is None and _has_pairs(comparison):
            choice = Choice(
                ", ".join(found.values),
                "in the order of the data, and differences are the first minus the second; `groups` sets an order",
            )
            comparison = replace(comparison, choices=(("groups", choice), *comparison.choices))
        for about, choice in comparison.decisions:
            ctx = ctx.decide(f"{about}: {choice.decision}", choice.reasoning, alternatives=choice.alternatives)
        if dropped:
            shown = [
                *dropped[:MOST_NAMED],
                *([f"and {len(dropped) - MOST_NAMED} more"] if len(dropped) > MOST_NAMED else []),
            ]
            ctx = ctx.decide("missing: drop", "; ".join(shown), alternatives=["missing: refuse"])
        comparison = replace(
            comparison,
            left_out=Counter(place.group for place in missing),
            measure=self.measure or (self.value if found.answers is None else found.answers.name),
            dropped=tuple(dropped[:MOST_DROPPED]),
            planned=self._as_planned(ctx.experiment, len(found.values), comparison.outcome),
        )
        return ctx.put_metric(self.metric, comparison.to_dict())

    def _prefer(self, ctx: Context, fields: PreferenceFields) -> Context:
        from crucible_bench.evaluations.preferences import compare_preferences  # noqa: PLC0415

        stats = ctx.experiment.stats
        comparison = compare_preferences(
            records_in(ctx, self.data),
            **fields.model_dump(),
            groups=self.groups,
            baseline=self.baseline,
            correction=self._correction(ctx.experiment),
            alpha=self.alpha or stats.alpha or 0.05,
            confidence_level=self.confidence_level or stats.confidence_level,
            missing=self.missing,
            measure=self.measure,
        )
        for about, choice in comparison.decisions:
            ctx = ctx.decide(f"{about}: {choice.decision}", choice.reasoning, alternatives=choice.alternatives)
        return ctx.put_metric(self.metric, comparison.to_dict())

    def _registered(self, ctx: Context) -> Context:
        """The Context with the decision whether the experiment's lock has declared this comparison."""
        if ctx.experiment.lock is None:
            return ctx
        from crucible_core.ir.registration import registration_of  # noqa: PLC0415  # few experiments are locked

        registration = registration_of(ctx.experiment)
        assert registration is not None
        if (why := registration.exploratory(self.metric)) is None:
            return ctx.decide(
                f"as locked: {registration.name}", "this comparison was declared before the data were seen"
            )
        return ctx.decide("exploratory", f"this comparison is not as it was locked ({registration.name}): {why}")

    def _as_planned(self, experiment: Experiment, groups: int, outcome: Outcome) -> PlannedPower | None:
        from crucible_bench.power.planned_power import power_as_planned  # noqa: PLC0415

        if self.planned is None:
            return None
        declared = replace(self.declaration(experiment), outcome=outcome)
        return power_as_planned(declared, groups, **self.planned.model_dump())

    def read_groups(self, ctx: Context) -> dict[str, Any]:
        """The groups that this stage compares, by name, in order; also from the Context of a run that has ended.

        Raises CannotTestError if they are not there, or if values are missing and `missing` is `refuse`.
        """
        return self.read(ctx).values

    def read(self, ctx: Context) -> ComparedGroups:
        """The same, with the cluster or the stratum of each value where the design has them."""
        return self._complete(ctx)[0]

    def pairs(self, ctx: Context) -> Sequence[Hashable] | None:
        """The names of the pairs of a run, in the order of the values; None if value i is pair i."""
        return self.read(ctx).pairs

    def differences(self, ctx: Context, group: str) -> Differences:
        """How paired values of a group in this run and another are compared: by the declared design."""
        from crucible_bench.decisions.differences import Differences  # noqa: PLC0415

        design = self._design(ctx.experiment)
        if design in ("clustered", "resampled"):
            declared = self.declaration(ctx.experiment)
            return Differences(design, self.read(ctx).clusters_of(group), declared.share_of_test_set)
        return Differences("paired")

    def _correction(self, experiment: Experiment) -> CorrectionName:
        asked = self.correction or experiment.stats.correction or "holm"
        return CORRECTION_ALIASES.get(asked, cast("CorrectionName", asked))

    def _tests(self, experiment: Experiment) -> list[TestName | Literal["auto"]]:
        of_all = experiment.stats.tests if self.quantile is None else None  # those are not about a quantile
        asked = self.tests or of_all or ("auto",)
        return [cast("TestName | Literal['auto']", TEST_ALIASES.get(test, test)) for test in asked]

    @property
    def _is_of_answers(self) -> bool:
        """Whether each value is made of an item's answers."""
        return self.pass_at is not None or self.majority_at is not None

    def _compare(self, tests: Sequence[str]) -> Comparing | None:
        """Which pairs are compared: arms that answered the same items two at a time, if nothing else is declared."""
        open_to_choice = self.compare is None and self.study is None and self.baseline is None
        return "all_pairs" if self._is_of_answers and open_to_choice and list(tests) == ["auto"] else self.compare

    def _design(self, experiment: Experiment) -> Design:
        """The design of the values that are compared: items are pairs, some of which may share a cluster."""
        if self._is_of_answers:
            return "clustered" if self.pair_by and self.clusters else "paired"
        return self._declared_design(experiment)

    def _declared_design(self, experiment: Experiment) -> Design:
        if self.design is not None or self.paired:
            return self.design or "paired"
        tests = [test for test in self._tests(experiment) if test != "auto"]
        return next(
            (design for design in TESTS_OF_DESIGN if tests and tests[0] in TESTS_OF_DESIGN[design]), "independent"
        )

    def _problems_of_data(self, design: Design) -> Iterator[str]:
        source, _, name = self.data.partition(".")
        outputs = source == "outputs"
        if source not in SOURCES or outputs == bool(name):
            yield f"data: {self.data!r} is not one of assigns.NAME, metrics.NAME or outputs"
        if outputs and not (self.group_by and self.value):
            yield "data: outputs needs group_by and value, the fields that hold the group's name and the number"
        if self.pair_by and (not outputs or design in _UNPAIRED):
            yield "pair_by: only for data: outputs with paired: true, or another design in which values belong together"
        if (design == "clustered") != (self.clusters is not None):
            yield "clusters: goes with design: clustered, and names the place of each value's cluster"
        if (design == "stratified") != (self.strata is not None):
            yield "strata: goes with design: stratified, and names the place of each score's task"
        for option, labels in (("clusters", self.clusters), ("strata", self.strata)):
            place, _, name = (labels or "").partition(".")
            if labels and not outputs and (place not in ("assigns", "metrics") or not name):
                yield f"{option}: {labels!r} is neither assigns.NAME nor metrics.NAME"

    def _problems_of_answers(self, design: Design) -> Iterator[str]:
        name = "pass_at" if self.pass_at is not None else "majority_at"
        if self.pass_at is not None and self.majority_at is not None:
            yield "pass_at: majority_at is there too; give each a bench stage of its own"
        if self.expected is not None and (self.majority_at is None or self.data != "outputs"):
            yield "expected: only with majority_at and data: outputs, for answers with their texts"
        if self._is_of_answers and not (design == "clustered" or (design == "paired" and self.pair_by)):
            yield f"{name}: needs the item of each answer: `design: clustered` and `clusters` (or `pair_by`)"
        if self._is_of_answers and self.outcome == "binary":
            yield f"{name}: makes a number between 0 and 1 of each item's answers, so leave `outcome` out"

    def _complete(self, ctx: Context) -> tuple[ComparedGroups, Sequence[MissingValue]]:
        """The groups without missing values, and the places that were dropped."""
        found, dropped = self._without_missing(ctx)
        return (self._by_item(ctx, found) if self._is_of_answers else found), dropped

    def _by_item(self, ctx: Context, found: ComparedGroups) -> ComparedGroups:
        """One number for each item that all groups answered, made of its answers."""
        from crucible_bench.evaluations.answers import at_k, items_of_arms  # noqa: PLC0415

        lacking = next((name for name in found.values if found.clusters_of(name) is None), None)
        if lacking is not None:
            raise CannotTestError("bench", f"{self.clusters} has no items of group {lacking!r}")
        expected = field_of_items(ctx, self._item, self.expected) if self.expected else None
        arms = {
            name: at_k(
                "majority" if self.pass_at is None else "pass",
                name,
                answers,
                found.clusters_of(name) or (),
                self.pass_at or self.majority_at or 0,
                expected=expected,
                fewer=self.missing,
            )
            for name, answers in found.values.items()
        }
        items = items_of_arms(arms, self.missing)
        clusters = None
        if self.pair_by and self.clusters:
            of_items = field_of_items(ctx, self.pair_by, self.clusters)
            clusters = [of_items[item] for item in items.items]
        return ComparedGroups(items.values, clusters, items.items, items.used, items.left_out)

    @property
    def _item(self) -> str:
        """The field, or the place, that has the item of an answer."""
        return self.pair_by or str(self.clusters)

    def _without_missing(self, ctx: Context) -> tuple[ComparedGroups, Sequence[MissingValue]]:
        from crucible_bench.data.missing import drop_missing  # noqa: PLC0415
        from crucible_bench.data.outcomes import open_counts  # noqa: PLC0415

        if self.preferences is not None:
            raise CannotTestError("bench", "preferences are comparisons of two arms, so there are no groups of numbers")
        found = self._source.read(ctx)
        if self._is_of_answers and found.clusters is not None and not isinstance(found.clusters, Mapping):
            found = found._replace(clusters=dict.fromkeys(found.values, found.clusters))  # answers are not pairs
        if self.groups is not None:
            unknown = [name for name in self.groups if name not in found.values]
            if unknown:
                raise CannotTestError(
                    "bench",
                    f"there is no group {unknown[0]!r} in {self.data}{closest(unknown[0], found.values)}; groups: "
                    f"{listing(found.values)}",
                )
            found = found._replace(values={name: found.values[name] for name in self.groups})
        if self.strata is not None and not isinstance(found.clusters, Mapping):
            found = found._replace(clusters={name: list(found.clusters or ()) for name in found.values})
        if self.missing == "refuse":
            self._refuse_missing_pairs(found)
            _refuse_missing(found)
            return found, ()
        found = self._without_empty(found)
        paired = self._design(ctx.experiment) not in _UNPAIRED
        paired = paired and not isinstance(found.clusters, Mapping)
        complete = drop_missing(
            {name: values if paired else open_counts(name, values) for name, values in found.values.items()},
            paired=paired,
        )
        gone = {place.position for place in complete.dropped}
        longest = max((len(values) for values in found.values.values()), default=0)
        pairs = found.pairs if found.pairs is not None else range(longest)
        left = [pair for place, pair in enumerate(pairs) if place not in gone] if paired and gone else found.pairs
        clusters = found.clusters
        if isinstance(clusters, Mapping):
            missing = {(place.group, place.position) for place in complete.dropped}
            clusters = {
                name: [label for place, label in enumerate(own) if (name, place) not in missing]
                for name, own in clusters.items()
            }
        elif clusters is not None:
            clusters = [label for place, label in enumerate(clusters) if place not in gone]
        return ComparedGroups(dict(complete.groups), clusters, left, empty=found.empty), complete.dropped

    def _without_empty(self, found: ComparedGroups) -> ComparedGroups:
        """Without the groups that have no value at all, such as an arm whose every trial failed: pairs of the others
        would be left out for it.

        Raises CannotTestError if that is the baseline.
        """
        from crucible_bench.data.missing import is_missing  # noqa: PLC0415

        empty = [
            name for name, values in found.values.items() if isinstance(values, list) and all(map(is_missing, values))
        ]
        left = len(found.values) - len(empty)
        if not empty or left == 0 or self.groups is not None or self.data != "outputs":
            return found
        if left == 1:
            raise CannotTestError("bench", f"there is no value of {listing(empty)} to compare the others with")
        if self.baseline in empty:
            raise CannotTestError(
                "bench", f"the baseline {self.baseline!r} has no value that others can be compared with"
            )
        kept = {name: values for name, values in found.values.items() if name not in empty}
        return found._replace(values=kept, empty=empty)

    def _refuse_missing_pairs(self, found: ComparedGroups) -> None:
        for name, values in found.values.items() if found.pairs is not None else ():
            lacking = [pair for pair, value in zip(found.pairs or (), values, strict=True) if value is None]
            if lacking:
                raise CannotTestError(
                    "bench",
                    f"group {name!r} has no output with {self.pair_by} {lacking[0]!r} ({len(lacking)} are missing); "
                    "`missing: drop` leaves such pairs out and lists them",
                )

    @property
    def _source(self) -> GroupsInMapping | GroupsInOutputs:
        if self.data == "outputs" and self._is_of_answers:
            return GroupsInOutputs(str(self.group_by), str(self.value), None, self._item)
        if self.data == "outputs":
            return GroupsInOutputs(str(self.group_by), str(self.value), self.pair_by, self.clusters or self.strata)
        return GroupsInMapping(self.data, self.clusters or self.strata)


def _refuse_missing(found: ComparedGroups) -> None:
    """Refuse missing values in one sentence, with their positions and the option that leaves them out."""
    from crucible_bench.data.missing import find_missing  # noqa: PLC0415

    places: dict[str, list[int]] = {}
    for place in find_missing({name: one for name, one in found.values.items() if not isinstance(one, Mapping)}):
        places.setdefault(place.group, []).append(place.position)
    if places:
        said = [
            f"group {name!r} lacks {len(at)} of {len(found.values[name])} values (position "
            f"{', '.join(map(str, at[:MOST_POSITIONS]))}{', …' if len(at) > MOST_POSITIONS else ''}, counted from 0)"
            for name, at in places.items()
        ]
        raise CannotTestError("bench", f"{'; '.join(said)}: `missing: drop` leaves them out and lists them")


def _has_pairs(comparison: Comparison) -> bool:
    """Whether the comparison has differences, whose signs depend on the order of the groups."""
    return comparison.comparisons is not None or any(len(test.groups) == 2 for test in comparison.tests)
