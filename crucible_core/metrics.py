"""The numbers of a run by their names."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crucible_bench.compared import PairResult
from crucible_bench.comparison import (
    Comparison,
    UnreadableComparisonError,
    comparison_numbers,
    looks_like_comparison,
)
from crucible_bench.result import TestResult
from crucible_core.context import Context
from crucible_core.values.jsonable import MAX_DEPTH, as_number, key_text, plain_number, to_jsonable


def flatten(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": 1}}` as ("a.b", 1): nested mappings are flattened, everything else stays as it is.

    A mapping stays as it is too if it is empty, contains itself, is nested too deep, or raises when it is read.
    """
    return _flatten(entries_of(values), "", ())


def _flatten(entries: list[tuple[str, Any]], prefix: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    for name, value in entries:
        inner = entries_of(value) if id(value) not in above and len(above) < MAX_DEPTH else []
        if inner:
            yield from _flatten(inner, f"{prefix}{name}.", (*above, id(value)))
        else:
            yield f"{prefix}{name}", value


def entries_of(value: Any) -> list[tuple[str, Any]]:
    """The entries of a mapping by their names in JSON; none if the value is not a mapping or cannot be read."""
    try:
        return [(key_text(key), item) for key, item in value.items()] if isinstance(value, Mapping) else []
    except Exception:  # noqa: BLE001  # a mapping of the user's own may raise anything; it is rendered as one value
        return []


def results(ctx: Context) -> Iterator[tuple[str, Any]]:
    """The numbers to follow from run to run: every metric; for a comparison, its findings but not its settings.

    A boolean counts as 1 or 0.
    """
    compared = comparisons(ctx)
    for name, value in flatten({name: value for name, value in ctx.metrics.items() if name not in compared}):
        if (number := as_number(value)) is not None and math.isfinite(plain := plain_number(number)):
            yield name, plain
    for name, comparison in compared.items():
        for part, number in comparison_numbers(comparison):
            yield f"{name}.{part}", number


def named_values(ctx: Context) -> dict[str, Any]:
    """Every value of the metrics by each of its names: those of `flatten` and, for a comparison, those of `results`.

    Each test and pair also has `interval_low`, `interval_high`, `effect_size_low` and `effect_size_high`.
    """
    return dict(every_value(ctx))


def every_value(ctx: Context) -> Iterator[tuple[str, Any]]:
    """The values of `named_values`. Two may have one name: a metric `a.b`, and the entry `b` of a metric `a`."""
    yield from results(ctx)
    yield from flatten(ctx.metrics)
    for name, comparison in comparisons(ctx).items():
        for test in comparison.tests:
            yield from _ends(f"{name}.{test.test}", test).items()
    yield from pair_values(ctx)


def pair_values(ctx: Context) -> Iterator[tuple[str, float]]:
    """The numbers of each pair of a family, and of each with a rope, such as `bench.svm_vs_ridge.p_adjusted`; in JSON
    they are in a list, without names.
    """
    for name, comparison in comparisons(ctx).items():
        for pair in comparison.comparisons.comparisons if comparison.comparisons else ():
            prefix = f"{name}.{pair.first}_vs_{pair.second}"
            for key in ("estimate", "p_value", "p_adjusted", "effect_size"):
                number = getattr(pair, key)
                if number is not None and math.isfinite(number):
                    yield f"{prefix}.{key}", number
            yield from _ends(prefix, pair).items()
        for one in comparison.bayesian:
            prefix = f"{name}.{one.groups[0]}_vs_{one.groups[1]}"
            for key in ("p_first", "p_equivalent", "p_second"):
                yield f"{prefix}.{key}", getattr(one, key)


def _ends(prefix: str, compared: TestResult | PairResult) -> dict[str, float]:
    intervals = {"interval": compared.confidence_interval, "effect_size": compared.effect_size_interval}
    found = {}
    for what, interval in intervals.items():
        if interval is not None:
            found[f"{prefix}.{what}_low"], found[f"{prefix}.{what}_high"] = interval
    return found


def is_number(value: Any) -> bool:
    rendered = to_jsonable(value)
    return isinstance(rendered, int | float) and not isinstance(rendered, bool)


# --- comparisons ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Comparisons:
    """The comparisons among some metrics, by name.

    `unread` has those that this version cannot read, such as one of a newer version, each with a sentence that says
    why. They stay among the metrics, so their numbers can be shown.
    """

    read: Mapping[str, Comparison]
    unread: Mapping[str, str]


def comparisons_in(metrics: Mapping[str, Any]) -> Comparisons:
    """The comparisons among the metrics; each is parsed once in a process, however often it is asked for."""
    read, unread = {}, {}
    for name, value in metrics.items():
        found = _read_once(value) if looks_like_comparison(value) else None
        if isinstance(found, Comparison):
            read[name] = found
        elif found is not None:
            unread[name] = found
    return Comparisons(read, unread)


def comparisons(ctx: Context) -> Mapping[str, Comparison]:
    """Metric -> comparison, for each metric that is one and can be read."""
    return comparisons_in(ctx.metrics).read


KEPT = 16
_LATEST: dict[str, Comparison | str | None] = {}
"""The comparisons read last, by the JSON text of their metric: each step of Dagster loads the metric anew, and a stage
may change it in place.
"""


def _read_once(value: dict[str, Any]) -> Comparison | str | None:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # a metric of the user's own, which is not JSON
        return _read(value)
    if text in _LATEST:
        return _LATEST[text]
    found = _LATEST[text] = _read(value)
    for oldest in list(_LATEST)[:-KEPT]:
        _LATEST.pop(oldest, None)
    return found


def _read(value: dict[str, Any]) -> Comparison | str | None:
    """The comparison, or why it cannot be read; None for a metric that is not a comparison."""
    try:
        return Comparison.from_dict(value)
    except UnreadableComparisonError as error:
        return str(error) if "kind" in value else None
