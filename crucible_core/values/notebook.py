"""What a notebook shows of a Context."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from crucible_core.values.jsonable import visible_text

__all__ = ["html_of_run"]

MOST_ROWS = 30
MOST_OF_A_VALUE = 120


class Run(Protocol):
    """What is shown of a Context, whose class this module cannot import: it is one layer below."""

    experiment_id: str
    run_id: str

    @property
    def metrics(self) -> Mapping[str, Any]: ...

    @property
    def artifacts(self) -> Mapping[str, Any]: ...

    @property
    def trace(self) -> Any: ...


def html_of_run(run: Run) -> str:
    """One small table of the metrics, how the stages ended, and the artifacts; every text is escaped."""
    stages = ((name, ending.kind.removeprefix("stage_")) for name, ending in run.trace.endings.items())
    parts: list[tuple[str, Iterable[tuple[str, str]]]] = [
        ("metrics", ((name, _shown(value)) for name, value in run.metrics.items())),
        ("stages", stages),
        ("artifacts", ((name, _shown(value)) for name, value in run.artifacts.items())),
    ]
    rows = "".join(_rows(title, list(part)) for title, part in parts)
    heading = _text(f"{run.experiment_id}, run {run.run_id}")
    return f"<table><caption>{heading}</caption><tbody>{rows}</tbody></table>"


def _rows(title: str, rows: list[tuple[str, str]]) -> str:
    shown = rows[:MOST_ROWS]
    if len(rows) > len(shown):
        shown.append(("…", f"{len(rows) - len(shown):,} more"))
    return "".join(
        f"<tr><th>{'' if place else title}</th><td>{_text(name)}</td><td>{_text(value)}</td></tr>"
        for place, (name, value) in enumerate(shown)
    )


def _shown(value: Any) -> str:
    # Imported in notebooks only: pydantic's reader of comparisons takes a while.
    from crucible_bench.comparison import Comparison, UnreadableComparisonError, looks_like_comparison  # noqa: PLC0415
    from crucible_core.values.formatting import format_value  # noqa: PLC0415

    if looks_like_comparison(value):
        try:
            return Comparison.from_dict(value).headline
        except UnreadableComparisonError as error:
            return str(error)
    return format_value(value, MOST_OF_A_VALUE)


def _text(text: object) -> str:
    import html  # noqa: PLC0415

    return html.escape(visible_text(str(text)))
