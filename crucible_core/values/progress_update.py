"""The progress of long work, as observers get it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ProgressUpdate"]


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """The progress of one piece of work of a stage."""

    stage: str
    """The stage in the pipeline."""
    key: int
    """Distinguishes the pieces of work of one stage."""
    description: str
    """What is done; by default the stage's name."""
    count: float
    total: float | None
    """None if unknown."""
    seconds: float
    """Since the work began."""
    ended: bool = False
    """The last update, whether or not all of it was done."""

    @property
    def rate(self) -> float | None:
        """Per second; None before anything was done."""
        return self.count / self.seconds if self.count > 0 and self.seconds > 0 else None

    @property
    def remaining(self) -> float | None:
        """Seconds, at the speed so far."""
        if self.rate is None or self.total is None or self.count >= self.total or self.ended:
            return None
        return (self.total - self.count) / self.rate

    def describe(self) -> str:
        """`training: 500 of 1,000 (50 %), 12.5 per s, 40 s left`."""
        from crucible_core.values.formatting import format_duration  # noqa: PLC0415  # needed only to show it

        said = [_number(self.count)]
        if self.total is not None:
            part = f" ({100 * self.count / self.total:.0f} %)" if self.total else ""
            said = [f"{_number(self.count)} of {_number(self.total)}{part}"]
        if self.rate is not None:
            said.append(f"{self.rate:,.3g} per s" if self.rate < 100 else f"{self.rate:,.0f} per s")
        if self.remaining is not None:
            said.append(f"{format_duration(self.remaining)} left")
        elif self.ended:
            said.append(f"in {format_duration(self.seconds)}")
        return f"{self.description}: {', '.join(said)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"
