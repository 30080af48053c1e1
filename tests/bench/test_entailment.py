"""Every sentence of a finding follows from its numbers.

One half makes results: from random data by the package itself, and 10,000 from random numbers, so that rare
combinations come too. The other half reads the sentence, knows nothing of how it was written, and holds each statement
against the numbers: direction, significance, estimate, interval, p, n, margin, how many of how many.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from crucible_bench import CannotTestError, Comparison, compare, practical_equivalence
from crucible_bench.compared import BestSet, FamilyResult, MarginResult
from crucible_bench.result import TestResult, Untested

# --- reading --------------------------------------------------------------------------------------------------------

NUMBER = r"(?:−?(?:[\d,]+(?:\.\d+)?(?:e−?\d+)?|∞))"
INTERVAL = rf"\[({NUMBER}), ({NUMBER})\]"


def number(text: str) -> float:
    text = text.replace("−", "-").replace(",", "")
    return math.copysign(math.inf, -1.0 if text.startswith("-") else 1.0) if "∞" in text else float(text)


def same(shown: str, value: float) -> bool:
    """Whether four digits of a number are those of the value."""
    read = number(shown)
    return read == value or math.isclose(read, value, rel_tol=6e-4, abs_tol=1e-12)


QUANTILES = {0.25: "25th percentile", 0.5: "median", 0.7: "70th percentile"}


class Reader:
    """Holds a sentence against the comparison it is about; `wrong` lists what does not follow."""

    def __init__(self, comparison: Comparison) -> None:
        self.of = comparison
        self.text = comparison.sentence
        self.wrong: list[str] = []

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            self.wrong.append(what)

    def read(self) -> list[str]:
        of = self.of
        if of.best is not None:
            self.sweep(of.best)
        elif of.comparisons is not None:
            self.family(of.comparisons)
        else:
            self.single()
        for verdict in of.verdicts[:6]:
            self.verdict(verdict)
        self.bayesian()
        self.headline()
        for quantile, name in QUANTILES.items():
            asked = quantile == of.quantile
            self.check(
                (f" in the {name}" in self.text) == asked == (f" in the {name}" in of.headline), f"{name}: {asked}"
            )
        left = max(0, len(of.verdicts) - 6)
        self.check(bool(re.search(rf"\b{left} more pairs? (is|are) judged", self.text)) == (left > 0), "more verdicts")
        for one in (*of.untested, *(of.comparisons.untested if of.comparisons else ())):
            self.check(" – ".join(one.groups) in self.text and one.reason in self.text, f"untested {one.groups}")
        return self.wrong

    def direction(self, said: str, first: str, second: str, significant: bool, estimate: float, null: float) -> None:
        """One pair's statement about which is higher."""
        higher, lower = f"{first} is higher than {second}", f"{first} is lower than {second}"
        not_shown = "could not be told apart" in said or "was not shown to be" in said
        self.check(not_shown != significant, f"significance of {first}, {second}")
        if said.startswith(higher):
            self.check(significant and estimate > null, f"{first} higher")
        elif said.startswith(lower):
            self.check(significant and estimate < null, f"{first} lower")
        elif significant:
            self.check(f"{first} and {second} differ" in said and estimate == null, f"{first} and {second} differ")
        if "was not shown to be higher" in said:
            self.check(self.of.alternative == "greater", "alternative")
        if "was not shown to be lower" in said:
            self.check(self.of.alternative == "less", "alternative")

    def numbers(self, said: str, estimate: float, interval: tuple[float, float], p: float) -> None:
        shown = re.search(rf"(?: = | )({NUMBER}), (?:(?:[\d.]+% )?CI {INTERVAL}|no interval)", said)
        if shown is None:
            self.wrong.append(f"no estimate with an interval in {said!r}")
            return
        self.check(same(shown[1], estimate), f"estimate {shown[1]} for {estimate}")
        if shown[2] is None:
            self.check(interval == (-math.inf, math.inf), "no interval")
        else:
            self.check(
                same(shown[2], interval[0]) and same(shown[3], interval[1]), f"interval {shown[0]} for {interval}"
            )
        given = re.search(r"\bp (= ([\d.]+)|< 0\.001)", said)
        ok = given is not None and (p < 0.001 if given[2] is None else abs(float(given[2]) - p) <= 5.1e-4)
        self.check(ok, f"p of {said!r} is {p}")

    def single(self) -> None:
        result, p_adjusted, significant = self.of.judged[0]
        said, _, numbers = self.text.partition(": ")
        p = result.p_value if p_adjusted is None else p_adjusted
        self.check(significant == (p <= self.of.alpha), "significant")
        first, second = result.groups
        self.direction(said, first, second, significant, result.estimate, result.null_value)
        self.numbers(numbers, result.estimate, result.confidence_interval, p)
        counts = re.search(r"n = ([\d,]+)(?: and ([\d,]+)| (per group|pairs))\.", numbers)
        self.check(counts is not None and number(counts[1]) == result.n[0], "n")
        if counts is not None and counts[2]:
            self.check(number(counts[2]) == result.n[1], "n of the second")
        elif counts is not None:
            self.check(len(set(result.n)) == 1, "one n for both")
        if result.effect_size is not None and result.effect_size_interval is not None and "Hedges' g_av" in numbers:
            shown = re.search(rf"Hedges' g_av = ({NUMBER}) {INTERVAL}", numbers)
            low, high = result.effect_size_interval
            ok = shown is not None and same(shown[1], result.effect_size)
            self.check(ok and same(shown[2], low) and same(shown[3], high), "effect size")  # type: ignore[index]

    def family(self, family: FamilyResult) -> None:
        head = re.match(r"(\d+) of (\d+) comparisons", self.text)
        apart = sum(pair.significant for pair in family.comparisons)
        self.check(head is not None and (int(head[1]), int(head[2])) == (apart, family.size), "k of n")
        self.check(family.size == len(family.comparisons) + len(family.untested), "size")
        told = 0
        for pair in family.comparisons:
            self.check(pair.significant == (pair.p_adjusted <= family.alpha), "significant")
            said = self.statement(pair.first, pair.second)
            if said is not None:
                told += 1
                self.direction(said, pair.first, pair.second, pair.significant, pair.estimate, family.null_value)
                self.numbers(said, pair.estimate, pair.confidence_interval, pair.p_adjusted)
        more = re.search(r"; and (\d+) more\.", self.text)
        self.check(told + (int(more[1]) if more else 0) == len(family.comparisons), "each pair once")

    def statement(self, first: str, second: str) -> str | None:
        """What is said of a pair, with the numbers in brackets."""
        start = re.search(
            rf"\b{first} (?:is (?:higher|lower) than|and|was not shown to be \w+ than) {second}\b", self.text
        )
        return None if start is None else re.split(r"; \w+ (?:is|and|was) ", self.text[start.start() :])[0]

    def verdict(self, verdict: MarginResult) -> None:
        first, second = verdict.groups
        low, high = verdict.confidence_interval
        inner_low, inner_high = verdict.equivalence_interval
        if not verdict.higher_is_better:
            low, high, inner_low, inner_high = -high, -low, -inner_high, -inner_low
        margin = verdict.margin
        about = re.compile(rf"\b{first} is (?:[\w-]+ )*?(?:than|to) {second}\b")
        said = [one for one in re.split(r"(?<=\.) ", self.text) if " margin " in one and about.search(one)]
        if len(said) != 1:
            self.wrong.append(f"one statement about the margin of {first} and {second}: {said}")
            return
        (one,) = said
        shown = re.search(rf"margin of ({NUMBER})", one)
        self.check(shown is not None and same(shown[1].rstrip(","), margin), f"margin in {one!r}")
        inside = -margin < inner_low and inner_high < margin
        if "by more than the margin" in one:
            self.check((low > margin) if " better " in one else (high < -margin), one)
        elif "perhaps by less than the margin" in one:
            self.check((0.0 < low <= margin) if " better " in one else (-margin <= high < 0.0), one)
        elif "is equivalent to" in one:
            self.check(inside, one)
        elif "non-inferior" in one:
            self.check(inner_low > -margin, one)
        else:
            self.check("inconclusive" in one and low <= 0.0 <= high and not inside, one)
            more = re.search(r"about ([\d,]+) more", one)
            self.check((more is None) == (not verdict.more_replicates), "more replicates")
            self.check(more is None or number(more[1]) == verdict.more_replicates, "more replicates")

    def bayesian(self) -> None:
        """Each pair's three probabilities, which belong to it and to the rope."""
        told = re.findall(
            rf"P\((\w+) better by more than ({NUMBER})\) ([<=>] \d\.\d\d), P\(practically equal\) ([<=>] \d\.\d\d), "
            rf"P\((\w+) better by more than ({NUMBER})\) ([<=>] \d\.\d\d)",
            self.text,
        )
        self.check(len(told) == min(6, len(self.of.bayesian)), "Bayesian statements")
        for (first, rope, p, p_equal, second, rope_again, p_second), one in zip(told, self.of.bayesian, strict=False):
            self.check((first, second) == one.groups, f"groups {one.groups}")
            self.check(same(rope, one.rope) and same(rope_again, one.rope), f"rope {rope}")
            for said, value in ((p, one.p_first), (p_equal, one.p_equivalent), (p_second, one.p_second)):
                sign, shown = said.split(" ")
                holds = {"<": value < float(shown), ">": value > float(shown), "=": abs(value - float(shown)) <= 0.0051}
                self.check(holds[sign], f"{said} for {value}")

    def headline(self) -> None:
        """The finding in one line: direction, size, and what it says of the margin."""
        of, line = self.of, self.of.headline
        if of.best is not None:
            self.check(line.startswith(f"{of.best.leader} has the best mean, "), "leader in the headline")
            return
        if of.comparisons is not None:
            family = of.comparisons
            rows = [
                (one.first, one.second, one.significant, one.estimate, one.confidence_interval)
                for one in sorted(family.comparisons, key=lambda pair: not pair.significant)[:3]
            ]
            self.check(line.startswith(f"{sum(one.significant for one in family.comparisons)} of {family.size} "), line)
            self.check((f"; {len(family.untested)} not tested" in line) == bool(family.untested), "not tested")
            line = line.partition(": ")[2]
        else:
            result, _, significant = of.judged[0]
            rows = [(*result.groups, significant, result.estimate, result.confidence_interval)]  # type: ignore[list-item]
        for first, second, significant, estimate, (low, high) in rows:
            pair = rf"\b(?:{first}|{second})\b[^;]*?\b(?:{first}|{second})\b[^;]*"
            said = next((one for one in re.findall(pair, line) if re.search(rf"\b{first}\b", one)), "")
            self.check(bool(said) and ("told apart" in said or "not shown" in said) != significant, f"{line}: {first}")
            up = estimate > 0
            if beats := re.match(r"(\w+) beats (\w+)", said):
                better = (first, second) if up == of.higher_is_better else (second, first)
                self.check(significant and beats.groups() == better, said)
            elif " is higher than " in said or " is lower than " in said:
                self.check(
                    significant and said.startswith(f"{first} is {'higher' if up else 'lower'} than {second}"), said
                )
            if size := re.search(rf" by ({NUMBER}), (?:\S+ CI )?({NUMBER}) to ({NUMBER})", said):
                shown, ends = number(size[1]), (low, high) if up else (-high, -low)
                read = shown, *map(number, size.groups()[1:])
                meant = abs(estimate), *ends
                # Digits that the interval's length justifies, and at least three where that is very short or long.
                near = [abs(a - b) <= (high - low) / 4 + 5e-3 * abs(b) for a, b in zip(read, meant, strict=True)]
                self.check(all(near), f"{said}: {meant}")
            verdict = next((one for one in of.verdicts if one.groups == (first, second)), None)
            if verdict is not None and said:
                nearest = max(verdict.confidence_interval[0], -verdict.confidence_interval[1])
                phrases = {
                    "equivalent within the margin": verdict.verdict == "equivalent",
                    "inconclusive against the margin": verdict.verdict == "inconclusive",
                    "not worse by the margin": verdict.verdict == "non_inferior",
                    "more than the margin": nearest > verdict.margin,
                    "perhaps less than the margin": 0.0 < nearest <= verdict.margin,
                }
                about = [holds for phrase, holds in phrases.items() if phrase in said]
                self.check(len(about) == 1 and about[0], f"{said}: {verdict}")

    def sweep(self, best: BestSet) -> None:
        means = {one.name: one.mean for one in best.contenders}
        turn = 1.0 if best.higher_is_better else -1.0
        head = re.match(rf"(\w+) has the best mean \(({NUMBER}), n = (\d+)\)", self.text)
        if head is None:
            self.wrong.append("leader")
            return
        self.check(all(turn * means[head[1]] >= turn * mean for mean in means.values()), "best mean")
        self.check(same(head[2], means[head[1]]), "mean of the leader")
        if best.mean is not None:
            lower, k = "lower" if best.higher_is_better else "higher", len(means)
            said = f"The mean of {head[1]} is likely {lower} than it looks, because the best of {k} was picked: "
            shown = re.search(rf"{said}([\d.]+)% CI for the mean of the one that came out best {INTERVAL}", self.text)
            ends = best.mean.interval
            ok = shown is not None and same(shown[2], ends[0]) and same(shown[3], ends[1])
            self.check(ok and number(shown[1]) == 100 * best.mean.confidence_level, "mean of the best")  # type: ignore[index]
            self.check(best.mean.mean == means[head[1]] and ends[0] <= best.mean.mean <= ends[1], "around the mean")
        alike = re.search(r"not told apart from it: ([\w, ]+)", self.text)
        kept = {head[1], *(alike[1].strip().split(", ") if alike else ())}
        self.check(kept == {one.name for one in best.contenders if one.kept}, "kept")
        self.check(all(one.kept == (one.p_value > best.alpha) for one in best.contenders), "kept by p")
        dropped = re.search(r"(\d+) of (\d+) (?:is|are) shown to be worse", self.text)
        if dropped:
            counts = len(means) - len(kept), len(means)
            self.check((int(dropped[1]), int(dropped[2])) == counts, "dropped of all")


# --- making ---------------------------------------------------------------------------------------------------------


def random_margin(rng: np.random.Generator, pair: tuple[str, str], like: MarginResult) -> MarginResult:
    """A verdict by the written rules from a random normal interval, on any scale."""
    scale = 10.0 ** rng.uniform(-4, 4)
    estimate, error, margin = rng.normal() * scale, rng.gamma(1.0) * scale, rng.gamma(1.0) * scale
    wide = estimate - 1.96 * error, estimate + 1.96 * error
    inner = estimate - 1.645 * error, estimate + 1.645 * error
    better = bool(rng.random() < 0.5)
    low, high, inner_low, inner_high = (*wide, *inner) if better else (-wide[1], -wide[0], -inner[1], -inner[0])
    if -margin < inner_low and inner_high < margin:
        verdict = "equivalent"
    elif low > 0.0 or high < 0.0:
        verdict = "better" if low > 0.0 else "worse"
    else:
        verdict = "non_inferior" if rng.random() < 0.5 and inner_low > -margin else "inconclusive"
    more = int(rng.integers(1, 10**6)) if rng.random() < 0.8 else None
    return replace(
        like,
        verdict=verdict,  # type: ignore[arg-type]
        groups=pair,
        margin=margin,
        estimate=estimate,
        confidence_interval=wide,
        equivalence_interval=inner,
        higher_is_better=better,
        more_replicates=more if verdict == "inconclusive" else 0,
    )


def random_test(rng: np.random.Generator, like: TestResult, alpha: float) -> TestResult:
    scale = 10.0 ** rng.uniform(-5, 6)
    estimate, error = float(rng.normal() * scale), float(rng.gamma(1.0) * scale)
    open_ = rng.random() < 0.05
    interval = (-math.inf, math.inf) if open_ else (estimate - 2 * error, estimate + 2 * error)
    p = float(rng.random() ** 3)
    n = tuple(map(int, rng.integers(2, 10**6, 2))) if rng.random() < 0.7 else (12, 12)
    effect = (
        {}
        if open_
        else {"effect_size": estimate / error, "effect_size_interval": (estimate / error - 2, estimate / error + 2)}
    )
    if open_:
        effect = {"effect_size": None, "effect_size_name": None, "effect_size_interval": None}  # type: ignore[dict-item]
    return replace(
        like,
        estimate=estimate,
        confidence_interval=interval,
        p_value=p,
        n=n,
        significant=p <= alpha,
        **effect,  # type: ignore[arg-type]
    )


def made_of_numbers(rng: np.random.Generator, count: int) -> Iterator[Comparison]:
    data = {name: rng.normal(size=12) for name in "abcd"}
    two = compare({"a": data["a"], "b": data["b"]}, margin=0.1)
    many = compare(data, compare="all_pairs", margin=0.1)
    sweep = compare(data, study="sweep")
    assert many.comparisons is not None
    assert sweep.best is not None
    for _ in range(count):
        kind, alpha = rng.random(), float(rng.choice([0.01, 0.05, 0.1]))
        if kind < 0.5:
            test = random_test(rng, two.tests[0], alpha)
            side: Any = rng.choice(["two-sided", "greater", "less"])
            verdicts = (random_margin(rng, ("a", "b"), two.verdicts[0]),) if rng.random() < 0.7 else ()
            yield replace(
                two, alpha=alpha, alternative=side, tests=(replace(test, alternative=side),), verdicts=verdicts
            )
        elif kind < 0.85:
            rows = []
            for pair in many.comparisons.comparisons:
                test = random_test(rng, two.tests[0], alpha)
                p = min(1.0, test.p_value * 2)
                rows.append(
                    replace(
                        pair, estimate=test.estimate, confidence_interval=test.confidence_interval, p_adjusted=p,
                        significant=p <= alpha, note="nothing varies" if test.effect_size is None else None,
                    )
                )  # fmt: skip
            gone = int(rng.integers(0, 3))
            lost = tuple(
                Untested("t", (one.first, one.second), one.n, "it cannot be") for one in rows[len(rows) - gone :]
            )
            kept = tuple(rows[: len(rows) - gone])
            family = replace(many.comparisons, alpha=alpha, comparisons=kept, untested=lost, size=6)
            verdicts = tuple(random_margin(rng, v.groups, v) for v in many.verdicts)
            yield replace(many, alpha=alpha, comparisons=family, verdicts=verdicts)
        else:
            turn = 1.0 if rng.random() < 0.5 else -1.0
            means = sorted(map(float, rng.normal(size=4)), key=lambda mean: -turn * mean)
            ps = [1.0, *map(float, rng.random(3) ** 3)]
            order = zip(sweep.best.contenders, means, ps, strict=True)
            contenders = tuple(replace(one, mean=mean, p_value=p, kept=p > alpha) for one, mean, p in order)
            assert sweep.best.mean is not None
            ends = means[0] - float(rng.gamma(1.0)), means[0] + float(rng.gamma(1.0))
            picked = replace(
                sweep.best.mean, name=contenders[0].name, mean=means[0], interval=ends, confidence_level=1 - alpha
            )
            best = replace(
                sweep.best, contenders=contenders, leader=contenders[0].name, alpha=alpha, higher_is_better=turn > 0,
                mean=picked if rng.random() < 0.9 else None,
                kept=tuple(one.name for one in contenders if one.kept),
            )  # fmt: skip
            yield replace(sweep, alpha=alpha, best=best)


def made_of_data(rng: np.random.Generator, count: int) -> Iterator[Comparison]:
    for _ in range(count):
        k, n = int(rng.choice([2, 2, 3])), int(rng.integers(2, 25))
        kind, design = rng.choice(["normal", "binary", "ties", "constant"]), rng.choice(["independent", "paired"])
        groups: dict[str, Any] = {}
        for name in "abc"[:k]:
            size = n if design == "paired" else int(rng.integers(2, 25))
            shift = float(rng.choice([0.0, 0.5, 2.0]))
            drawn = rng.normal(shift, 1.0, size)
            values = {
                "normal": drawn,
                "binary": rng.random(size) < 0.5 + shift / 5,
                "ties": np.round(drawn),
                "constant": np.full(size, shift),
            }
            groups[name] = values[str(kind)].tolist()
        options: dict[str, Any] = {"design": str(design), "higher_is_better": bool(rng.random() < 0.5)}
        if k == 3:
            options |= {"compare": "all_pairs"} if rng.random() < 0.6 else {"study": "sweep"}
        if "study" not in options and rng.random() < 0.6:
            options |= {
                "margin": float(rng.gamma(1.0) / (5 if kind == "binary" else 1)),
                "non_inferiority": bool(rng.random() < 0.5),
            }
        if "study" not in options and design == "paired" and rng.random() < 0.5:
            options |= {"rope": float(rng.gamma(1.0) / 5), "resamples": 200}
        if not options.keys() & {"study", "margin", "rope"} and kind != "binary" and rng.random() < 0.5:
            options |= {"quantile": float(rng.choice(list(QUANTILES))), "resamples": 400}
        try:
            yield compare(groups, **options)
        except CannotTestError:
            continue


@pytest.mark.slow
def test_every_sentence_follows_from_its_numbers() -> None:
    for comparison in made_of_numbers(np.random.default_rng(20), 10_000):
        assert not Reader(comparison).read(), comparison.sentence


@pytest.mark.slow
def test_every_sentence_about_data_follows_from_its_numbers() -> None:
    for comparison in made_of_data(np.random.default_rng(21), 300):
        assert not Reader(comparison).read(), comparison.sentence
        # The test and the verdict of one pair speak of one interval.
        if comparison.comparisons is None and comparison.best is None and comparison.verdicts:
            verdict = comparison.verdicts[0].verdict
            assert not (verdict in ("better", "worse") and "could not be told apart" in comparison.sentence)


def test_the_reader_notices_what_does_not_follow() -> None:
    rng = np.random.default_rng(0)
    result = compare({"a": rng.normal(size=9), "b": rng.normal(3.0, 1.0, 9)}, margin=0.5)
    assert Reader(result).read() == []
    (test,), (verdict,) = result.tests, result.verdicts
    for other in (
        replace(result, tests=(replace(test, significant=False, p_value=0.9),)),
        replace(result, tests=(replace(test, estimate=-test.estimate),)),
        replace(result, tests=(replace(test, n=(8, 9)),)),
        replace(result, verdicts=(replace(verdict, margin=50.0),)),
        replace(result, bayesian=(practical_equivalence({"a": [1.0, 2.0, 4.0], "b": [0.0, 2.0, 3.0]}, 0.1),)),
        replace(result, verdicts=(replace(verdict, higher_is_better=True, confidence_interval=(-0.1, 0.1)),)),
    ):
        told = Reader(other)
        told.text = result.sentence
        assert told.read(), other
