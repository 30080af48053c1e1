"""Equality of any two values that a Context may hold."""

from __future__ import annotations

import cmath
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from pydantic import BaseModel

__all__ = ["differences_between", "same"]


def same(left: Any, right: Any) -> bool:
    """Whether two values are the same: same type, same content. Never raises.

    NaN is the same as NaN. Numpy arrays are compared with their dtype and shape, pandas objects and series by their
    `equals`. An object whose class has no `==`, or one that gives no bool, is compared by what pickle would
    store. A value that cannot be compared is the same only as itself.
    """
    try:
        return _same(left, right, ())
    except Exception:  # noqa: BLE001  # the == of a user's class may raise anything
        return False


def _same(left: Any, right: Any, above: tuple[tuple[int, int], ...]) -> bool:
    """`above` are the ids of the pairs that these two are inside of."""
    if left is right:
        return True
    if type(left) is not type(right):
        return False
    if isinstance(left, str | bytes | int | float | complex | range):
        return bool(left == right) or (isinstance(left, float | complex) and _same_nan(left, right))
    if (id(left), id(right)) in above:
        return True  # they contain themselves at the same place; whether they differ is found elsewhere
    above = (*above, (id(left), id(right)))
    if hasattr(type(left), "equals"):
        return bool(left.equals(right))
    if isinstance(left, Mapping):
        return _same(list(left.items()), list(right.items()), above)
    if isinstance(left, Sequence):
        return len(left) == len(right) and all(_same(a, b, above) for a, b in zip(left, right, strict=True))
    if all(hasattr(type(left), name) for name in ("dtype", "shape", "__array__")):
        return _same_array(left, right, above)
    if not (_has_no_equality(left) or is_dataclass(left) or hasattr(type(left), "nnz")):
        found = left == right
        if isinstance(found, bool):
            return found
    # The == of a dataclass or a model compares all its fields at once, which arrays among them refuse; that of a sparse
    # matrix gives a sparse matrix, and a warning.
    return _same(_parts(left), _parts(right), above)


def _same_nan(left: complex, right: complex) -> bool:
    return cmath.isnan(left) and all(
        a == b or (a != a and b != b)  # noqa: PLR0124
        for a, b in ((left.real, right.real), (left.imag, right.imag))
    )


def _has_no_equality(value: Any) -> bool:
    equality: object = type(value).__eq__
    return equality in (object.__eq__, BaseModel.__eq__)


def _parts(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return [vars(value), value.model_extra]  # which fields were set, and private attributes, are not its content
    reduced = value.__reduce_ex__(4)
    # The items of subclasses of list and dict come as iterators.
    return reduced if isinstance(reduced, str) else [*reduced[:3], *(part and list(part) for part in reduced[3:5])]


def _same_array(left: Any, right: Any, above: tuple[tuple[int, int], ...]) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.dtype == object:
        return _same(left.tolist(), right.tolist(), above)
    if getattr(left.dtype, "names", None):
        return all(_same_array(left[name], right[name], above) for name in left.dtype.names)
    if getattr(left.dtype, "kind", "") == "c":
        return _same_array(left.real, right.real, above) and _same_array(left.imag, right.imag, above)
    # NaN in the same places, everything else equal; also for dtypes that have no NaN.
    equal = (left == right) | ((left != left) & (right != right))  # noqa: PLR0124
    if hasattr(equal, "filled"):  # what is under a mask does not count
        equal = equal.filled(True) & (left.mask == right.mask)
    return bool(equal.all())


# --- two Contexts ------------------------------------------------------------------------------------------------


def differences_between(one: Any, other: Any) -> tuple[str, ...]:
    """Where the results in two Contexts differ, as `Context.differences` says."""
    found = [
        f"{part}[{key!r}]"
        for part in ("metrics", "artifacts", "assigns")
        for key in dict.fromkeys([*getattr(one, part), *getattr(other, part)])
        if not same(_without_id(one, part, key), _without_id(other, part, key))
    ]
    if not same(list(one.outputs), list(other.outputs)):
        found.append("outputs")
    if _decisions(one) != _decisions(other):
        found.append("decisions")
    if _endings(one) != _endings(other):
        found.append("stages")
    return tuple(found)


_MISSING = object()


def _without_id(ctx: Any, part: str, key: str) -> Any:
    value = getattr(ctx, part).get(key, _MISSING)
    # A report's path contains the run id, which differs in every run.
    if part != "artifacts" or not isinstance(value, str):
        return value
    return "/".join("RUN" if step == ctx.run_id else step for step in value.split("/"))


def _decisions(ctx: Any) -> list[dict[str, Any]]:
    decisions = ctx.trace.decisions
    found = [_fields(decision, {"at"}) for decision in decisions]
    if any(decision.depends_on for decision in decisions):
        places = {decision.id: place for place, decision in enumerate(decisions)}  # ids are those of one run
        for one in found:
            one["depends_on"] = [places.get(each, each) for each in one["depends_on"]]
    return found


def _endings(ctx: Any) -> list[dict[str, Any]]:
    left_out = {"at", "seconds", "traceback", "reused_from"}
    return [_fields(ending, left_out) for ending in ctx.trace.endings.values()]


def _fields(event: Any, left_out: Collection[str]) -> dict[str, Any]:
    return {one.name: getattr(event, one.name) for one in dataclasses.fields(event) if one.name not in left_out}
