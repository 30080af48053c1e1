"""From numbers to pixels, and the round numbers to mark on an axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from crucible_bench.plots.numbers import superscript
from crucible_bench.plots.text_layout import text_width

__all__ = ["TICK_SIZE", "Axis", "linear_axis", "log_axis"]

TICK_SIZE = 11
_SMALLEST_UNIT = -300  # below, powers of ten lose digits


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear map of [low, high] to [start, end], of the numbers in `unit`s above `base`, or of their logarithms.

    `suffix` is what the axis's title needs to make its labels correct, such as ` (×10⁻⁹)`.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    unit: float = 1.0
    base: float = 0.0
    suffix: str = ""
    log: bool = False

    def at(self, value: float) -> float:
        """The place of a number in pixels; for a number outside the axis, the axis's end."""
        place = math.log10(value) if self.log else (value - self.base) / self.unit
        share = (place - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)


def linear_axis(
    values: Iterable[float], start: float, end: float, *, pad: float = 0.05, bounds: tuple[float, float] | None = None
) -> Axis:
    """An axis that holds all values, with a margin of `pad` of its length on either side.

    `bounds`, or the values, must be finite; without any value it goes from -1 to 1. With `bounds` it is exactly those.
    An axis whose `end` is smaller than its `start` goes upwards, and its labels are one above the other.
    """
    shown = list(bounds or values)
    low, high = (min(shown), max(shown)) if shown else (-1.0, 1.0)
    size = max(abs(low), abs(high))
    if 0 < high / 2 - low / 2 < 1e-5 * size:
        base = float(f"{low:.{_shared_digits(low, high)}g}")
        base = base if math.isfinite(base) else low
        inner = linear_axis((low - base, high - base), start, end, pad=pad)
        suffix = f"{inner.suffix} ({'+' if base > 0 else '−'} {abs(base):,.15g})"
        ticks = tuple(tick + base for tick in inner.ticks)
        return replace(inner, ticks=ticks, base=base, suffix=suffix)
    power = math.floor(math.log10(size)) if size > 0 else 0
    power = 0 if -4 < power < 6 else max(power, _SMALLEST_UNIT)
    unit = 10.0**power
    low, high = low / unit, high / unit
    if not high > low:
        room = 0.1 * abs(low) or 1.0
        low, high = low - room, high + room
    if bounds is None:
        room = pad * (high - low)
        low, high = low - room, high + room
    ticks, labels = _ticks(low, high, start, end)
    suffix = f" (×10{superscript(power)})" if power else ""
    return Axis(low, high, start, end, tuple(tick * unit for tick in ticks), labels, unit, 0.0, suffix)


def _shared_digits(low: float, high: float) -> int:
    """How many digits two near numbers have in common."""
    return min(15, max(1, math.floor(-math.log10((high - low) / abs(high)))))


def _ticks(low: float, high: float, start: float, end: float) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Round numbers at a pleasant distance; if that gives fewer than two, as close as the room allows."""
    length, across = abs(end - start), end > start
    found: tuple[tuple[float, ...], tuple[str, ...]] = ((), ())
    for least in (64, 20) if across else (38, 26, 16):
        step = _nice((high - low) * least / length)
        while True:
            decimals = _decimals(step)
            numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
            ticks = tuple(number * step for number in numbers)
            labels = tuple(_label(tick, decimals) for tick in ticks)
            room = length * step / (high - low)
            if not across or len(ticks) < 2 or max(map(_width, labels)) + 16 <= room:
                break
            step = _nice(step * 1.01)
        if len(ticks) > len(found[0]):
            found = ticks, labels
        if len(ticks) >= 2:
            break
    return found


def _decimals(step: float) -> int:
    """How many decimals distinguish the multiples of a round step: 2 for 0.25."""
    power = math.floor(math.log10(step) + 1e-9)
    return max(0, -power + (round(step / 10.0**power, 6) == 2.5))


def _nice(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(times * power for times in (1, 2, 2.5, 5, 10) if times * power >= step * (1 - 1e-9))


def _label(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    return (text if text.strip("-0.,") else text.lstrip("-")).replace("-", "−")


def _width(label: str) -> float:
    return text_width(label, TICK_SIZE)


def log_axis(values: Sequence[float], start: float, end: float, *, pad: float = 0.05) -> Axis:
    """A logarithmic axis that holds all values, which must be finite and above 0."""
    low, high = math.log10(min(values)), math.log10(max(values))
    if not high > low:
        low, high = low - 0.3, high + 0.3
    room = pad * (high - low)
    low, high = low - room, high + room
    decades = range(math.floor(low), math.ceil(high) + 1)
    for times in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [t * 10.0**d for d in decades if -323 < d < 308 for t in times if low <= math.log10(t) + d <= high]
        if len(ticks) >= 3:
            break
    else:
        linear, _ = _ticks(10.0**low, 10.0**high, start, end)
        ticks = [tick for tick in linear if tick > 0]
    kept: list[tuple[float, str]] = []
    edge = -math.inf
    for tick in ticks:
        label = f"{tick:,.10g}" if 1e-4 <= tick < 1e6 else f"10{superscript(round(math.log10(tick)))}"
        if not 1e-4 <= tick < 1e6 and abs(math.log10(tick) - round(math.log10(tick))) > 1e-9:
            continue
        place = start + (math.log10(tick) - low) / (high - low) * (end - start)
        if place - _width(label) / 2 - 14 >= edge:
            kept.append((tick, label))
            edge = place + _width(label) / 2
    return Axis(low, high, start, end, tuple(tick for tick, _ in kept), tuple(label for _, label in kept), log=True)
