"""Missing values: found and named; dropped only on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from crucible_bench.data.sample import Values
from crucible_bench.errors import CannotTestError
from crucible_bench.result import plain_json
from crucible_bench.wording import counted

MissingReason = Literal["missing", "partner missing", "without partner"]

_Positions: TypeAlias = NDArray[np.intp]
_TEST: Final = "missing values"


@dataclass(frozen=True, slots=True)
class MissingValue:
    """A place in a group that a comparison cannot use.

    `reason` is "missing" for None, NaN, NaT, pandas' NA or a masked value. In paired groups it may also be "partner
    missing" (another group has no value at this position) or "without partner" (another group ends before it).
    """

    group: str
    position: int
    reason: MissingReason


@dataclass(frozen=True, slots=True)
class CompleteGroups:
    """The groups without the dropped values, otherwise as they were given, and a record of each place dropped."""

    groups: Mapping[str, Values]
    dropped: tuple[MissingValue, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence per group and reason, to go with a result; empty where nothing was dropped."""
        counts: dict[tuple[str, str], int] = {}
        for place in self.dropped:
            counts[place.group, place.reason] = counts.get((place.group, place.reason), 0) + 1
        said = {
            "missing": "missing",
            "partner missing": "whose partner is missing",
            "without partner": "without partner",
        }
        return tuple(
            f"{counted(count, 'value')} of group {group!r} dropped, {said.get(reason, reason)}"
            for (group, reason), count in counts.items()
        )

    def to_dict(self) -> dict[str, Any]:
        """What was dropped, as plain JSON values."""
        fields: dict[str, Any] = {"dropped": plain_json([asdict(place) for place in self.dropped])}
        return fields


def find_missing(groups: Mapping[str, Values], *, paired: bool = False) -> tuple[MissingValue, ...]:
    """The places that no comparison of these groups can use, by group and position; nothing is changed.

    `groups` maps each group's name to its values, of shape (n,).

    Infinite numbers, text and other values that are not numbers are wrong, not missing; the test refuses them.
    Raises CannotTestError if the groups are not a mapping, or values are not a sequence of one dimension.
    """
    found = _unusable(groups, paired)
    return tuple(place for name in groups for place in found[name][1])


def drop_missing(groups: Mapping[str, Values], *, paired: bool = False) -> CompleteGroups:
    """The groups without their missing values; with `paired`, without every position at which any group lacks a value.

    Dropping is right if the reasons why values are missing have nothing to do with the values (Rubin 1976: completely
    at random). A model that fails on hard questions looks too good if it is compared on the rest; count failures
    instead. Raises as `find_missing` does.
    """
    found = _unusable(groups, paired)
    kept: dict[str, Values] = {}
    for name, values in groups.items():
        use = found[name][0]
        if use is None:
            kept[name] = values
        elif hasattr(values, "__array__"):
            kept[name] = np.asarray(values)[use]
        else:
            kept[name] = [values[place] for place in use]
    return CompleteGroups(kept, tuple(place for name in groups for place in found[name][1]))


def is_missing(value: Any) -> bool:
    """Whether one value is None, NaN, NaT or pandas' NA."""
    if value is None:
        return True
    try:
        return not bool(value == value)  # noqa: PLR0124 - NaN and NaT are unequal to themselves
    except TypeError:  # pandas' NA
        return True
    except ValueError:  # an array: wrong, not missing
        return False


def _unusable(
    groups: Mapping[str, Values], paired: bool
) -> dict[str, tuple[_Positions | None, tuple[MissingValue, ...]]]:
    """For each group, the positions that are kept (None for all) and the places that are dropped."""
    if not isinstance(cast(object, groups), Mapping):
        raise CannotTestError(_TEST, f"groups must be a mapping of name to numbers, not {type(groups).__name__}")
    missing = {name: _mask(name, values) for name, values in groups.items()}
    shortest = min((mask.size for mask in missing.values()), default=0)
    alone = np.zeros(shortest, dtype=np.bool_)
    for mask in missing.values():
        alone |= mask[:shortest]
    found: dict[str, tuple[_Positions | None, tuple[MissingValue, ...]]] = {}
    for name, mask in missing.items():
        gone = mask.copy()
        if paired:
            gone[:shortest] |= alone
            gone[shortest:] = True
        places = tuple(
            MissingValue(
                name,
                int(place),
                "missing" if mask[place] else "partner missing" if place < shortest else "without partner",
            )
            for place in np.flatnonzero(gone)
        )
        found[name] = (np.flatnonzero(~gone) if places else None), places
    return found


def _mask(name: str, values: Any) -> NDArray[np.bool_]:
    readable = hasattr(values, "__getitem__") or hasattr(values, "__array__")
    if isinstance(values, (str, bytes, Mapping)) or not readable:
        raise CannotTestError(_TEST, f"group {name!r} must be a sequence of numbers, not {type(values).__name__}")
    if not hasattr(values, "__array__"):
        return np.fromiter((is_missing(value) for value in values), dtype=np.bool_, count=len(values))
    array = np.asarray(values)
    if array.ndim != 1:
        raise CannotTestError(_TEST, f"group {name!r} has shape {array.shape}; a group is one row of numbers")
    if array.dtype.kind in "fcmM":
        mask: NDArray[np.bool_] = array != array  # noqa: PLR0124
    elif array.dtype.kind == "O":
        mask = np.fromiter((is_missing(value) for value in array), dtype=np.bool_, count=array.size)
    else:
        mask = np.zeros(array.size, dtype=np.bool_)
    return mask | np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else mask
