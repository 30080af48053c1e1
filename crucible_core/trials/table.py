"""The table of a sweep: one trial for each arm and replicate, with its seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Final, NamedTuple

from crucible_core.values.messages import closest, listing

__all__ = [
    "MOST_TRIALS",
    "Arm",
    "Trial",
    "TrialsError",
    "arm_of",
    "arms_of",
    "check_size",
    "find_arm",
    "seed_of",
    "table_of",
]

MOST_TRIALS: Final = 1_000_000
LONGEST_VALUE: Final = 40

Changes = Mapping[str, Mapping[str, Any]]
"""Stage -> option -> value."""


class TrialsError(ValueError):
    """Trials that are not possible, or cannot be gathered; `place` is where the mistake is, below `trials`."""

    explains_itself = True

    def __init__(self, message: str, *place: str | int) -> None:
        super().__init__(message)
        self.place = place


class Arm(NamedTuple):
    """One set of options that is tried."""

    name: str
    options: Changes
    varied: Mapping[str, Any]
    """`stage.option` -> value, for each value of the grid."""


class Trial(NamedTuple):
    """One row of the table: one run of the trial's stages."""

    arm: Arm
    replicate: int
    """From 0."""
    seed: int


def arms_of(arms: Mapping[str, Changes] | None, grid: Mapping[str, Sequence[Any]] | None) -> tuple[Arm, ...]:
    """Each arm, once for each combination of the grid's values. Without arms and grid: one arm, the file as it is.

    Raises TrialsError if two of them have the same options, or if there are more than `MOST_TRIALS`.
    """
    size = len(arms or "1")
    for values in (grid or {}).values():
        size *= len(values)
    check_size(size)
    labels = _labels(grid or {})
    found: dict[str, Arm] = {}
    seen: dict[str, str] = {}
    for name, changes in (arms or {"": {}}).items():
        for values in product(*(grid or {}).values()):
            varied = dict(zip(grid or {}, values, strict=True))
            shown = [name] if name else []
            shown += [_shown(labels[key], value) for key, value in varied.items()]
            arm = _distinct(" ".join(shown) or "all", found)
            options = _with_grid(changes, varied)
            same = seen.setdefault(json.dumps(options, sort_keys=True), arm)
            if same != arm:
                place = ("grid", *list(grid)[:1]) if grid else ("arms", name)
                raise TrialsError(f"the arms {same!r} and {arm!r} have the same options; leave one of them out", *place)
            found[arm] = Arm(arm, options, varied)
    return tuple(found.values())


def arm_of(varied: Mapping[str, Any], taken: Collection[str]) -> Arm:
    """The arm with these values of options, with a name that is not taken, in which numbers have four digits."""
    options = [key.partition(".")[2] for key in varied]
    labels = [option if options.count(option) == 1 else key for key, option in zip(varied, options, strict=True)]
    values = [float(f"{value:.4g}") if isinstance(value, float) else value for value in varied.values()]
    name = " ".join(_shown(f"{label}=", value) for label, value in zip(labels, values, strict=True))
    return Arm(_distinct(name, taken), _with_grid({}, varied), varied)


def find_arm(arms: Sequence[Arm], baseline: str | Mapping[str, Any]) -> Arm:
    """The arm of that name, or with those values of the grid. Raises TrialsError if there is not just one."""
    if isinstance(baseline, str):
        found = [arm for arm in arms if arm.name == baseline]
        near = closest(baseline, [arm.name for arm in arms])
    else:
        found = [arm for arm in arms if all(arm.varied.get(key, arm) == value for key, value in baseline.items())]
        near = ""
    if len(found) != 1:
        what = f"{len(found)} arms are" if found else "there is no arm"
        known = listing([arm.name for arm in found or arms])
        raise TrialsError(f"{what} {baseline!r}{near}; {'name one of them' if found else 'arms'}: {known}", "baseline")
    return found[0]


def table_of(arms: Sequence[Arm], replicates: int, seed: int) -> Iterator[Trial]:
    """Every arm of replicate 0, then every arm of replicate 1, and so on: more replicates are more rows at the end.

    Raises TrialsError if there are more than `MOST_TRIALS`.
    """
    check_size(len(arms) * replicates)
    for replicate in range(replicates):
        seed_of_replicate = seed_of(seed, replicate)
        for arm in arms:
            yield Trial(arm, replicate, seed_of_replicate)


def seed_of(seed: int, replicate: int) -> int:
    """The seed of a replicate, below 2**32: `numpy.random.SeedSequence(seed, spawn_key=(replicate,))`, its first word.

    It follows from the experiment's seed and the replicate alone, so that all arms of a replicate share it, whatever is
    added to the sweep later. The algorithm is that of M. E. O'Neill, "Developing a seed_seq alternative" (2015), in the
    form that numpy documents as stable; by hand, because numpy is an extra.
    """
    words = [seed & _WORD]
    while seed := seed >> 32:
        words.append(seed & _WORD)
    words += [0] * (4 - len(words))  # as numpy does where there is a spawn key
    words.append(replicate)
    mixed = _hashes(0x43B0D7E5, 0x931E8875)
    pool = [mixed(word) for word in words[:4]]
    for source, target in product(range(4), range(4)):
        if source != target:
            pool[target] = _mix(pool[target], mixed(pool[source]))
    for word in words[4:]:
        for target in range(4):
            pool[target] = _mix(pool[target], mixed(word))
    return _hashes(0x8B51F9DD, 0x58F38DED)(pool[0])


_WORD: Final = 0xFFFFFFFF


def _hashes(constant: int, factor: int) -> Callable[[int], int]:
    def mixed(word: int) -> int:
        nonlocal constant
        word ^= constant
        constant = constant * factor & _WORD
        word = word * constant & _WORD
        return word ^ word >> 16

    return mixed


def _mix(first: int, second: int) -> int:
    mixed = (first * 0xCA01F9DD - second * 0x4973F715) & _WORD
    return mixed ^ mixed >> 16


def check_size(trials: int) -> None:
    """Raises TrialsError if there are more than `MOST_TRIALS`."""
    if trials > MOST_TRIALS:
        raise TrialsError(f"{trials:,} trials are more than the {MOST_TRIALS:,} that a sweep can have")


def _labels(grid: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """`train.rate` as `rate=`, unless the grid has the option of another stage under that name.

    Texts stand for themselves, without a label, unless two options have one in common.
    """
    options = [key.partition(".")[2] for key in grid]
    labels = {}
    for key, option in zip(grid, options, strict=True):
        own = {value for value in grid[key] if isinstance(value, str)}
        others = {str(value) for other in grid if other != key for value in grid[other]}
        if len(own) < len(grid[key]) or own & (others | {""}):
            labels[key] = f"{option if options.count(option) == 1 else key}="
    return {key: labels.get(key, "") for key in grid}


def _shown(label: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return label + (text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…")


def _distinct(name: str, taken: Collection[str]) -> str:
    """A name that is not taken: long values that begin alike would give two arms the same name."""
    number = 2
    found = name
    while found in taken:
        found, number = f"{name} ({number})", number + 1
    return found


def _with_grid(changes: Changes, varied: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    merged = {stage: dict(options) for stage, options in changes.items()}
    for key, value in varied.items():
        stage, _, option = key.partition(".")
        merged.setdefault(stage, {})[option] = value
    return merged
