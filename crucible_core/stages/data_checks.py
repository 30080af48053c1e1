"""The `data_checks` stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field

from crucible_core.context import Context
from crucible_core.errors import CrucibleError
from crucible_core.stage import Stage

__all__ = ["DataChecks", "UnusableExamplesError"]


_OWN_STAGE = (
    "leave it out (the original reads no such option either); {} are checked by a stage of your own "
    "(`module: package.module:Class`)"
)


class UnusableExamplesError(CrucibleError, ValueError):
    """The examples cannot be checked, or fail the checks. The message says it all: a traceback adds nothing."""

    explains_itself: ClassVar[bool] = True


class DataChecks(Stage):
    """Checks that every example of `assigns["examples"]` has the required fields.

    A field is missing when it is absent, None, NaN or an empty text. `metrics["data_checks"]` gets `total`,
    `missing_required` (examples with a field missing) and `required_fields`; `assigns["data_issues"]` lists each such
    example's index and missing fields.
    """

    instead: ClassVar[Mapping[str, str]] = {
        "check_lengths": _OWN_STAGE.format("lengths"),
        "check_types": _OWN_STAGE.format("types"),
        "checker": "leave it out, and put a stage of your own into the pipeline (`module: package.module:Class`)",
    }

    required_fields: list[str] = Field(default=["input", "output"], min_length=1)
    """The fields that each example must have."""
    fail_fast: bool = False
    """Fail the run when a field is missing, instead of only counting."""

    def run(self, ctx: Context) -> Context:
        issues: list[dict[str, Any]] = []
        total = 0
        for index, example in enumerate(_examples(ctx)):
            total += 1
            if not isinstance(example, Mapping):
                raise UnusableExamplesError(
                    f"example {index} must be a mapping of field to value; it is {example!r:.80}"
                )
            missing = [name for name in self.required_fields if _is_missing(example.get(name))]
            if missing:
                issues.append({"index": index, "missing": missing})
        if self.fail_fast and issues:
            first = issues[0]
            raise UnusableExamplesError(
                f"{len(issues)} of {total} examples lack a required field; the first is example {first['index']}, "
                f"which lacks {', '.join(first['missing'])}"
            )
        checked = {"total": total, "missing_required": len(issues), "required_fields": list(self.required_fields)}
        return ctx.put_metric("data_checks", checked).assign(data_issues=issues)


def _examples(ctx: Context) -> Iterable[Any]:
    examples = ctx.assigns.get("examples")
    if examples is None:
        raise UnusableExamplesError('there is nothing to check: no stage before this one put assigns["examples"]')
    if hasattr(examples, "to_dict") and hasattr(examples, "columns"):
        return examples.to_dict("records")  # type: ignore[no-any-return]  # a data frame, of whatever library
    if isinstance(examples, Iterator):
        raise UnusableExamplesError('assigns["examples"] is an iterator, which reading would use up; assign a list')
    if isinstance(examples, str | Mapping) or not isinstance(examples, Iterable):
        raise UnusableExamplesError(f'assigns["examples"] must be a sequence of mappings; it is {examples!r:.80}')
    return examples


def _is_missing(value: Any) -> bool:
    """None, an empty text, or a single NaN, NaT or pandas' NA."""
    if value is None or isinstance(value, str):
        return not value
    if hasattr(value, "__len__") or getattr(value, "shape", ()) != ():
        return False
    try:
        return bool(value != value)  # noqa: PLR0124
    except TypeError:
        return type(value).__name__ == "NAType"
