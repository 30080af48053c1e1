"""Lining up the values of two runs by the names of their pairs."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def places_of_pairs(wanted: Sequence[Hashable], there: Sequence[Hashable]) -> list[int] | None:
    """The position of each wanted pair, None if their order is the same. Raises ValueError if the pairs differ."""
    if list(wanted) == list(there):
        return None
    places = {pair: place for place, pair in enumerate(there)}
    lacking = [pair for pair in wanted if pair not in places]
    if lacking or len(wanted) != len(there):
        named = repr(lacking[0]) if lacking else repr(next(pair for pair in there if pair not in set(wanted)))
        raise ValueError(
            f"the runs have different pairs, {len(wanted)} and {len(there)}, so value i of one does not belong to "
            f"value i of the other; {named} is in only one of them"
        )
    return [places[pair] for pair in wanted]
