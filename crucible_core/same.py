"""Equality of any two values that a Context may hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

__all__ = ["same"]


def same(left: Any, right: Any) -> bool:
    """Whether two values are the same: same type, same content.

    NaN is the same as NaN; numpy arrays are compared with their dtype and shape, pandas objects by `equals`; an object
    with no `==` of its own is compared by its attributes.
    """
    if left is right:
        return True
    if type(left) is not type(right):
        return False
    if isinstance(left, float) and math.isnan(left):
        return math.isnan(right)
    if isinstance(left, str | bytes | int | float):
        return bool(left == right)
    if isinstance(left, Mapping):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, Sequence):
        return len(left) == len(right) and all(map(same, left, right))
    if hasattr(left, "dtype") and hasattr(left, "shape") and hasattr(left, "__array__"):
        return _same_array(left, right)
    if hasattr(left, "equals"):
        return bool(left.equals(right))
    if (_has_no_equality(left) or is_dataclass(left) or hasattr(left, "nnz")) and hasattr(left, "__dict__"):
        # The == of a dataclass compares all its fields at once, which arrays among them refuse; that of a sparse
        # matrix gives a sparse matrix.
        return same(vars(left), vars(right))
    return bool(left == right)


def _has_no_equality(value: Any) -> bool:
    return type(value).__eq__ is object.__eq__  # type: ignore[comparison-overlap]  # for all mypy knows, never


def _same_array(left: Any, right: Any) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if hasattr(left, "equals"):
        return bool(left.equals(right))
    if left.dtype == object:
        return same(left.tolist(), right.tolist())
    # NaN in the same places, everything else equal; also for dtypes that have no NaN.
    equal = (left == right) | ((left != left) & (right != right))  # noqa: PLR0124
    return bool(equal.all())
