"""The numbers of a run by their names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from crucible_bench.comparison import ComparedPair, ComparedTest, Comparison, comparison_numbers
from crucible_core.context import Context
from crucible_core.values.jsonable import MAX_DEPTH, key_text, to_jsonable


def flatten(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": 1}}` as ("a.b", 1): nested mappings opened, everything else as it is.

    What cannot be opened is not: an empty mapping, one that contains itself, is nested too deep or raises.
    """
    return _flatten(_entries(values), "", ())


def _flatten(entries: list[tuple[str, Any]], prefix: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    for name, value in entries:
        inner = _entries(value) if id(value) not in above and len(above) < MAX_DEPTH else []
        if inner:
            yield from _flatten(inner, f"{prefix}{name}.", (*above, id(value)))
        else:
            yield f"{prefix}{name}", value


def _entries(value: Any) -> list[tuple[str, Any]]:
    """The entries of a mapping under the names they have in JSON; none of what is no mapping or cannot be read."""
    try:
        return [(key_text(key), item) for key, item in value.items()] if isinstance(value, Mapping) else []
    except Exception:  # noqa: BLE001  # a mapping of the user's own may raise anything; it is rendered as one value
        return []


def results(ctx: Context) -> Iterator[tuple[str, Any]]:
    """The numbers worth following from run to run: every metric, and of a comparison its findings, not its settings."""
    compared = comparisons(ctx)
    for name, value in flatten({name: value for name, value in ctx.metrics.items() if name not in compared}):
        if is_number(value):
            yield name, value
    for name, comparison in compared.items():
        for part, number in comparison_numbers(comparison):
            yield f"{name}.{part}", number


def named_values(ctx: Context) -> dict[str, Any]:
    """Every value of the metrics by the names that may be asked for: those of `flatten`, and of a comparison the short
    ones of `results` with `interval_low`, `interval_high`, `effect_size_low` and `effect_size_high` of each test and
    pair.
    """
    found = dict(results(ctx)) | dict(flatten(ctx.metrics))
    for name, comparison in comparisons(ctx).items():
        for test, result in comparison.tests.items():
            found |= _ends(f"{name}.{test}", result)
    return found | dict(pair_values(ctx))


def pair_values(ctx: Context) -> Iterator[tuple[str, float]]:
    """The numbers of each pair of a family, `bench.svm_vs_ridge.p_adjusted`: they stand in a list, where no name is."""
    for name, comparison in comparisons(ctx).items():
        for pair in comparison.comparisons.comparisons if comparison.comparisons else ():
            prefix = f"{name}.{pair.first}_vs_{pair.second}"
            for key in ("estimate", "p_value", "p_adjusted", "effect_size"):
                if (number := getattr(pair, key)) is not None:
                    yield f"{prefix}.{key}", number
            yield from _ends(prefix, pair).items()


def _ends(prefix: str, compared: ComparedTest | ComparedPair) -> dict[str, float]:
    ends = {"interval": compared.confidence_interval}
    if compared.effect_size_interval is not None:
        ends["effect_size"] = compared.effect_size_interval
    found = {}
    for what, (low, high) in ends.items():
        found[f"{prefix}.{what}_low"] = -math.inf if low is None else low
        found[f"{prefix}.{what}_high"] = math.inf if high is None else high
    return found


def is_number(value: Any) -> bool:
    rendered = to_jsonable(value)
    return isinstance(rendered, int | float) and not isinstance(rendered, bool)


def comparisons(ctx: Context) -> dict[str, Comparison]:
    """Metric -> comparison, for each metric that is one."""
    found = {}
    for name, value in ctx.metrics.items():
        if isinstance(value, dict):
            try:
                found[name] = Comparison.model_validate(value)
            except ValidationError:
                continue
    return found
