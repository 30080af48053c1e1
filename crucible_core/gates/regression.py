"""Is this run worse than an earlier one? The rule behind `no_regression`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from crucible_core.context import Context
from crucible_core.gates.outcome import (
    EarlierRun,
    NotComparedError,
    Past,
    RunNumbers,
    UndecidedError,
    UnknownNameError,
    Verdict,
    number_text,
    reason_of,
)
from crucible_core.ir.gates import NoRegression
from crucible_core.ir.vocabulary import GateStatus
from crucible_core.ir.whole_checks import ComparesGroups
from crucible_core.values.messages import closest, listing

if TYPE_CHECKING:
    from crucible_bench import MarginResult
    from crucible_bench.decisions.differences import Differences
    from crucible_core.plan import PlannedStage


WATCHED: Mapping[str, GateStatus] = {
    "better": "passed",
    "not_worse": "passed",
    "undecided": "undecided",
    "worse": "failed",
}


@dataclass(frozen=True, slots=True)
class Regression:
    rule: NoRegression
    ctx: Context
    planned: Sequence[PlannedStage]
    past: Past | None
    numbers: RunNumbers

    def judge(self) -> Verdict:
        rule = self.rule
        ours = self._values(self.ctx, self.numbers)
        if self.past is None:
            raise UndecidedError("it needs the history that Dagster keeps, and this run has none", needs_more_runs=True)
        runs = self.past.baseline(rule.baseline)
        if not runs:
            raise UndecidedError(f"there is nothing to compare with yet: {self._nothing()}", needs_more_runs=True)
        theirs, passed_over = self._comparable(runs)
        if rule.looks == "always_valid":
            return self._over_all_looks(ours, theirs)
        if rule.baseline.last_runs is not None and not rule.paired:
            # A run that failed because there are too few passing runs would not become one of them either.
            few = len(runs) < rule.baseline.last_runs
            verdict = self._against_numbers(ours, theirs, needs_more_runs=few)
        else:
            verdict = self._against_values(ours, theirs)
        if passed_over:
            return replace(verdict, sentence=f"{verdict.sentence} ({passed_over})")
        return verdict

    def _nothing(self) -> str:
        baseline, experiment = self.rule.baseline, self.ctx.experiment
        options = "" if baseline.any_options else " with the options of the file"
        if baseline.variant is not None:
            return f"no run of variant {baseline.variant!r} has succeeded{options}"
        if experiment.variant is not None:
            return f"no earlier run of variant {experiment.variant!r} passed{options}"
        return f"no earlier run of the experiment{' without a variant' if experiment.variants else ''} passed{options}"

    def _comparable(self, runs: Sequence[EarlierRun]) -> tuple[list[tuple[str, list[float]]], str]:
        """The ids and values of runs that can be compared, and why others cannot. Raises UndecidedError if none can."""
        found, reasons = [], []
        for run in runs:
            try:
                context = run.read()
                self._same_measure(context)
                found.append((run.run_id, self._in_order(self._values(context, RunNumbers(context)), context)))
            except NotComparedError as error:
                reasons.append(f"run {run.run_id}: {error.verdict.sentence}")
            except Exception as error:  # noqa: BLE001  # a stage, or unpickling, may raise anything
                reasons.append(f"run {run.run_id} cannot be read: {reason_of(error)}")
        if not found:
            raise UndecidedError(
                f"the baseline cannot be compared: {reasons[0]}", baseline_runs=tuple(run.run_id for run in runs)
            )
        if reasons:
            return found, f"{len(reasons)} of {len(runs)} earlier runs cannot be compared; {reasons[0]}"
        return found, ""

    def _same_measure(self, earlier: Context) -> None:
        if self.rule.group is None:
            return
        now, then = (_measure_of(ctx, self.rule.bench) for ctx in (self.ctx, earlier))
        if now != then:
            raise UndecidedError(
                f"its bench stage measured {then or 'an unnamed measure'}, this one {now or 'an unnamed measure'}"
            )

    def _values(self, ctx: Context, numbers: RunNumbers) -> list[float]:
        """The compared values of a run. Raises NotComparedError, or the stage's own error, if they are missing."""
        rule = self.rule
        if rule.metric is not None:
            return [float(numbers.get(rule.metric))]
        assert rule.group is not None
        stage = self._stage()
        if getattr(stage, "quantile", None) is not None:
            raise UndecidedError(
                f"its bench stage compares a quantile, and a group is held to its mean; take `metric: {rule.bench}."
                f"{rule.group}.quantile` instead of the group"
            )
        groups = stage.read_groups(ctx)
        if rule.group not in groups:
            raise UnknownNameError(
                f"there is no group {rule.group!r}{closest(rule.group, groups)}; groups: {listing(groups)}"
            )
        from crucible_bench.data.sample import read_sample  # noqa: PLC0415  # numpy takes a while to load

        values = groups[rule.group]
        # Booleans are right and wrong answers: their mean is the share of right ones.
        if isinstance(values, list | tuple):
            values = [float(value) if isinstance(value, bool) else value for value in values]
        elif getattr(getattr(values, "dtype", None), "kind", "") == "b":
            values = values.astype(float)
        return [float(value) for value in read_sample("margin", rule.group, values).values]

    def _in_order(self, values: list[float], earlier: Context) -> list[float]:
        """Values of an earlier run in the order of this one's pairs. Raises ValueError if the pairs differ."""
        named = getattr(self._stage(), "pairs", None) if self.rule.paired else None
        if named is None:
            return values
        now, then = named(self.ctx), named(earlier)
        if now is None and then is None:
            return values
        from crucible_bench.data.pairing import places_of_pairs  # noqa: PLC0415

        now = range(len(self._values(self.ctx, self.numbers))) if now is None else now
        places = places_of_pairs(now, range(len(values)) if then is None else then)
        return values if places is None else [values[place] for place in places]

    def _stage(self) -> ComparesGroups:
        for one in self.planned:
            if isinstance(one.stage, ComparesGroups) and one.stage.metric == self.rule.bench and one.definition.enabled:
                return one.stage
        raise UndecidedError(f"no stage of the run compares groups and puts the metric {self.rule.bench!r}")

    # --- one interval -------------------------------------------------------------------------------------------------

    def _against_values(self, ours: list[float], theirs: list[tuple[str, list[float]]]) -> Verdict:
        from crucible_bench import judge_margin  # noqa: PLC0415
        from crucible_bench.data.outcomes import are_zero_or_one  # noqa: PLC0415

        rule = self.rule
        runs = tuple(run for run, _ in theirs)
        if rule.paired and (other := next(((run, one) for run, one in theirs if len(one) != len(ours)), None)):
            raise UndecidedError(
                f"value i of both runs cannot belong together: run {other[0]} has {len(other[1])} values, this one "
                f"{len(ours)}",
                baseline_runs=runs,
            )
        # Several runs are averaged item by item: the noise between runs that remains is the same for all items.
        earlier = [_mean(column) for column in zip(*(one for _, one in theirs), strict=True)]
        # Right and wrong answers have an interval of their shares even if all are alike: five of five may be luck.
        are_answers = not rule.paired and all(map(are_zero_or_one, (ours, earlier)))
        if not are_answers and (verdict := self._without_variation(ours, earlier, runs)) is not None:
            return verdict
        judged = judge_margin(
            {"now": ours, "baseline": earlier},
            rule.margin,
            difference=self._pairs() if rule.paired else None,
            higher_is_better=rule.higher_is_better,
            non_inferiority=True,
            alpha=self._alpha,
        )
        return self._by_verdict(judged, ours, earlier, runs)

    def _pairs(self) -> Differences:
        """How the stage compares pairs: values of folds, or of items in clusters, are not independent."""
        from crucible_bench.decisions.differences import Differences  # noqa: PLC0415

        of_stage = getattr(self._stage(), "differences", None)
        return Differences("paired") if of_stage is None else cast("Differences", of_stage(self.ctx, self.rule.group))

    def _against_numbers(
        self, ours: list[float], theirs: list[tuple[str, list[float]]], *, needs_more_runs: bool
    ) -> Verdict:
        """Each run as one observation: its number, or the mean of its group."""
        from crucible_bench import judge_new_value  # noqa: PLC0415

        rule = self.rule
        runs = tuple(run for run, _ in theirs)
        now = [_mean(ours)]
        earlier = [_mean(one) for _, one in theirs]
        if len(earlier) < 2:
            raise UndecidedError(
                f"there is only one earlier number, {number_text(earlier[0])}, which gives no interval; two or more do",
                numbers={"value": now[0], "baseline": earlier[0], "margin": rule.margin, "n_baseline": 1},
                baseline_runs=runs,
                needs_more_runs=needs_more_runs,
            )
        if (verdict := self._without_variation(now, earlier, runs)) is not None:
            return verdict
        judged = judge_new_value(
            now[0],
            earlier,
            rule.margin,
            higher_is_better=rule.higher_is_better,
            non_inferiority=True,
            alpha=self._alpha,
        )
        return replace(self._by_verdict(judged, now, earlier, runs), needs_more_runs=needs_more_runs)

    @property
    def _alpha(self) -> float:
        return self.rule.alpha or self.ctx.experiment.stats.alpha or 0.05

    def _by_verdict(
        self, judged: MarginResult, ours: list[float], earlier: list[float], runs: tuple[str, ...]
    ) -> Verdict:
        status: GateStatus = "passed" if judged.verdict in {"better", "equivalent", "non_inferior"} else "undecided"
        if judged.verdict == "worse":
            status = "failed"
        interval = judged.equivalence_interval
        numbers = self._described(ours, earlier, judged.estimate, interval, 1.0 - 2.0 * judged.alpha)
        if status == "undecided":
            numbers["more_replicates"] = judged.more_replicates
        if status == "failed":
            return Verdict(status, self._worse(judged, numbers, runs), numbers, runs)
        return Verdict(status, self._sentence(status, numbers, runs, judged.more_replicates), numbers, runs)

    def _described(
        self,
        ours: list[float],
        earlier: list[float],
        estimate: float,
        interval: tuple[float, float] | None,
        level: float | None,
    ) -> dict[str, float | int | None]:
        return {
            "value": _mean(ours),
            "baseline": _mean(earlier),
            "estimate": estimate,
            "interval_low": interval and interval[0],
            "interval_high": interval and interval[1],
            "confidence_level": level,
            "margin": self.rule.margin,
            "n": len(ours),
            "n_baseline": len(earlier),
        }

    def _without_variation(self, ours: list[float], earlier: list[float], runs: tuple[str, ...]) -> Verdict | None:
        """The verdict if nothing varies, as between two runs with the same seeds: then the difference is exact."""
        from crucible_bench.data.pairs import pair_differences  # noqa: PLC0415
        from crucible_bench.data.sample import read_groups  # noqa: PLC0415

        pair = read_groups("margin", {"now": ours, "baseline": earlier})
        if self.rule.paired:
            still = len(ours) > 1 and pair_differences("margin", pair).is_constant
        else:
            one_is_new = self.rule.baseline.last_runs is not None
            still = len(earlier) > 1 and (one_is_new or len(ours) > 1) and all(one.is_constant for one in pair)
        if not still:
            return None
        if self.rule.paired:
            estimate = _mean([now - then for now, then in zip(ours, earlier, strict=True)])
        else:
            estimate = ours[0] - earlier[0]
        gain = estimate if self.rule.higher_is_better else -estimate
        status: GateStatus = "passed" if gain > -self.rule.margin else "failed"
        numbers = self._described(ours, earlier, estimate, None, None)
        if ours == earlier or (self.rule.paired and estimate == 0):
            what = f"{self._what} is exactly what it was in {_named(runs)}"
        else:
            what = f"{self._what} is {self._changed(estimate)} {_named(runs)}"
        follows = f"{'a' if status == 'failed' else 'no'} loss of {number_text(self.rule.margin)} or more"
        return Verdict(status, f"{what}, without any variation (n = {self._counts(numbers)}): {follows}", numbers, runs)

    # --- an interval that holds at all looks --------------------------------------------------------------------------

    def _over_all_looks(self, ours: list[float], theirs: list[tuple[str, list[float]]]) -> Verdict:
        """Each run since the pinned one is one value, compared with the pinned run's value as a known number."""
        from crucible_bench import watch_baseline  # noqa: PLC0415

        rule = self.rule
        assert self.past is not None
        (baseline, earlier), *_ = theirs
        between = self.past.since(baseline, any_options=rule.baseline.any_options)
        try:
            since, passed_over = self._comparable(between) if between else ([], "")
        except UndecidedError as undecided:
            since, passed_over = [], undecided.verdict.sentence
        then = _mean(earlier)
        values = [*(_mean(one) for _, one in since), _mean(ours)]
        watched = watch_baseline(
            then,
            values,
            bounds=rule.bounds,
            margin=rule.margin,
            higher_is_better=rule.higher_is_better,
            alpha=self._alpha,
        )
        status = WATCHED[watched.verdict]
        numbers: dict[str, float | int | None] = {
            "value": values[-1],
            "baseline": then,
            "estimate": watched.estimates[-1],
            "interval_low": watched.interval[0],
            "interval_high": watched.interval[1],
            "confidence_level": 1.0 - watched.alpha,
            "margin": rule.margin,
            "n": watched.n,
            "n_baseline": 1,
        }
        runs = f"{watched.n} run{'s' if watched.n > 1 else ''}"
        found = (
            f"{self._what} is, over {runs}, {self._changed(watched.estimates[-1])} {_named((baseline,))} "
            f"({100 * (1.0 - watched.alpha):.4g}% CI of the difference, which holds at every look, "
            f"{self._interval(numbers)})"
        )
        follows = {
            "passed": f"a loss of {number_text(rule.margin)} or more is ruled out",
            "failed": f"it is worse by more than {number_text(rule.margin)}",
            "undecided": f"a loss of {number_text(rule.margin)} is neither ruled out nor shown",
        }[status]
        more = f" ({passed_over})" if passed_over else ""
        return Verdict(status, f"{found}: {follows}{more}", numbers, (baseline,))

    # --- words --------------------------------------------------------------------------------------------------------

    @property
    def _what(self) -> str:
        return self.rule.group or self.rule.metric or ""

    def _changed(self, estimate: float) -> str:
        if estimate == 0:
            return f"{'on average ' if self.rule.group else ''}the same as in"
        return f"{number_text(abs(estimate))} {'higher' if estimate > 0 else 'lower'} than in"

    def _interval(self, numbers: Mapping[str, Any]) -> str:
        return f"[{number_text(numbers['interval_low'])}, {number_text(numbers['interval_high'])}]"

    def _counts(self, numbers: Mapping[str, float | int | None]) -> str:
        if self.rule.paired:
            return f"{numbers['n']} pairs"
        return f"{numbers['n']} and {numbers['n_baseline']}"

    def _worse(self, judged: MarginResult, numbers: Mapping[str, Any], runs: tuple[str, ...]) -> str:
        # The interval that shows it: the one of the numbers, at 1 - 2 alpha, is compared with the margin only.
        low, high = judged.confidence_interval
        least, most = (-high, -low) if self.rule.higher_is_better else (low, high)
        found = (
            f"{self._what} is {self._changed(judged.estimate)} {_named(runs)} ({100 * (1 - judged.alpha):.4g}% CI of "
            f"the difference [{number_text(low)}, {number_text(high)}], n = {self._counts(numbers)})"
        )
        if least >= self.rule.margin:
            return f"{found}: it is worse by more than the margin of {number_text(self.rule.margin)}"
        margin = number_text(self.rule.margin)
        return f"{found}: it is worse, and the loss may be {number_text(most)}, more than the margin of {margin}"

    def _sentence(self, status: GateStatus, numbers: Mapping[str, Any], runs: tuple[str, ...], more: int | None) -> str:
        rule = self.rule
        found = (
            f"{self._what} is {self._changed(numbers['estimate'])} {_named(runs)} "
            f"({100 * numbers['confidence_level']:.4g}% CI of the difference {self._interval(numbers)}, "
            f"n = {self._counts(numbers)})"
        )
        margin = number_text(rule.margin)
        if status == "passed":
            return f"{found}: a loss of {margin} or more is ruled out"
        unknown = f"{found}: it is not shown to be worse, but a loss of {margin} is not ruled out either"
        if more:
            each = "pairs" if rule.paired else "earlier runs" if rule.baseline.last_runs else "values in each run"
            return f"{unknown}; about {more:,} more {each} would decide"
        return f"{unknown}; more {'runs' if rule.baseline.last_runs else 'values'} would not decide"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _named(runs: tuple[str, ...]) -> str:
    return f"run {runs[0]}" if len(runs) == 1 else f"the {len(runs)} runs before"


def _measure_of(ctx: Context, bench: str) -> str | None:
    result = ctx.metrics.get(bench)
    measure = result.get("measure") if isinstance(result, Mapping) else None
    return measure if isinstance(measure, str) else None
