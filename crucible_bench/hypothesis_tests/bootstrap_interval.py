"""Bootstrap intervals of any statistic of one or more samples."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
from scipy import special

from crucible_bench.data.sample import Sample, Values, Vector, read_sample, unscaled
from crucible_bench.distributions.resampling import bca_interval, check_resamples
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.clusters import FEW_CLUSTERS, Clusters, Codes, read_clusters
from crucible_bench.levels import levels
from crucible_bench.result import Choice, Interval, plain_json
from crucible_bench.wording import counted

BootstrapMethod = Literal["bca", "percentile"]

_NAME = "bootstrap_interval"
_JACKKNIFED_BLOCKS = 200  # at most this many evaluations estimate the acceleration of one sample
_MOST_UNDEFINED = 0.05
_EQUAL = 1e-12
_BATCH = 1 << 16  # values drawn at once: 512 kB of positions and 512 kB of values, however many resamples


@dataclass(frozen=True, slots=True)
class BootstrapInterval:
    """A statistic with its bootstrap interval and standard error, the standard deviation of the replicates."""

    value: float
    interval: Interval
    standard_error: float
    confidence_level: float
    n: tuple[int, ...]
    resamples: int
    seed: int
    notes: tuple[str, ...]
    decisions: tuple[Choice, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        plain: dict[str, Any] = plain_json(asdict(self))
        return plain


def bootstrap_interval(
    statistic: Callable[..., float],
    *samples: Values,
    paired: bool = False,
    clusters: Clusters | None = None,
    method: BootstrapMethod = "bca",
    vectorized: bool | None = None,
    confidence_level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> BootstrapInterval:
    """The interval of `statistic(x, y, ...)`, which takes the samples as float64 vectors, shape (n,), to a number.

    The samples are resampled separately or, if `paired`, together, position by position. With `clusters`, one label
    per position of one sample or of paired ones, whole clusters are resampled (Davison & Hinkley 1997, section 3.8;
    Cameron & Miller 2015), so that resamples differ in length where clusters do. "percentile" (Efron 1979) reads the
    quantiles of the replicates; "bca" (Efron 1987) corrects them for bias and skewness. The skewness is estimated by
    the jackknife: value by value, or cluster by cluster, up to 200 of them, and in 200 blocks beyond. Equal seeds give
    equal results. Memory is a batch of resamples, at least one, and one number per replicate.

    A `vectorized` statistic takes shape (resamples, n) and the keyword axis=-1 too, as numpy's do, and is then called
    once per batch; None looks for a parameter called axis.

    Raises CannotTestError if the statistic is not finite for the samples, or for more than one resample in twenty
    (fewer are left out and noted). It is also raised for a sample of one value, paired samples of different lengths,
    fewer than two clusters, clusters of unpaired samples, and data that no test takes. Raises ValueError for a level,
    method, number of resamples or seed out of range.
    """
    level = levels(0.05, confidence_level)[1]
    if method not in get_args(BootstrapMethod):
        raise ValueError(f"unknown bootstrap method {method!r}; known: {', '.join(get_args(BootstrapMethod))}")
    resamples, seed = operator.index(resamples), operator.index(seed)
    if seed < 0:
        raise ValueError(f"seed must not be negative, but is {seed}")
    tail = (1.0 - level) / 2.0
    check_resamples(_NAME, resamples, (tail,))
    data = _read(samples, paired)
    together = _together(data, paired, clusters)
    value = _evaluated(statistic, data)
    if not math.isfinite(value):
        raise CannotTestError(_NAME, f"the statistic of the samples is {value}, not a finite number")
    at_once = _takes_axis(statistic) if vectorized is None else vectorized
    if at_once and clusters is None:
        replicates = _batched(statistic, data, paired, resamples, seed)
    else:
        replicates = _replicates(statistic, data, together, resamples, seed)
    usable = replicates[np.isfinite(replicates)]
    lost = resamples - usable.size
    if lost > _MOST_UNDEFINED * resamples:
        raise CannotTestError(
            _NAME,
            f"the statistic of {lost} of {resamples} resamples is not finite; a bootstrap needs a statistic that is "
            "defined for repeated values too",
        )
    notes: tuple[str, ...] = (f"{resamples} resamples, seed {seed}",)
    if clusters is not None and together is not None:
        notes = (*notes, *_cluster_notes(together.count))
    if lost:
        notes = (*notes, f"{counted(lost, 'resample')} left out: the statistic is not finite")
    unit = max(abs(value), float(np.abs(usable).max()))
    exponent = math.frexp(unit)[1] if unit > 0.0 else 0
    centre = math.ldexp(value, -exponent)
    with np.errstate(under="ignore"):
        deviations = np.ldexp(usable, -exponent) - centre  # scaled, because replicates near 1e300 have no variance
    if float(np.ptp(deviations)) <= _EQUAL:
        notes = (
            *notes,
            "every resample gives the same value, because the values do not vary or the statistic does not: the "
            "interval has no width and says nothing about the error (for shares, proportion_interval does)",
        )
    if method == "bca":
        ends, choice = bca_interval(deviations, _acceleration(statistic, data, together, exponent), tail)
    else:
        low, high = np.quantile(deviations, (tail, float(special.ndtr(-special.ndtri(tail)))))
        ends = float(low), float(high)
        choice = Choice("percentile bootstrap interval", "asked for", ("BCa bootstrap interval",))
    return BootstrapInterval(
        value,
        (unscaled(_NAME, centre + ends[0], exponent), unscaled(_NAME, centre + ends[1], exponent)),
        unscaled(_NAME, float(deviations.std(ddof=1)), exponent),
        level,
        tuple(sample.n for sample in data),
        resamples,
        seed,
        notes,
        (choice,),
    )


def _read(samples: Sequence[Values], paired: bool) -> tuple[Sample, ...]:
    if not samples:
        raise CannotTestError(_NAME, "there is no sample to resample; pass the values after the statistic")
    data = tuple(read_sample(_NAME, f"sample {index}", values) for index, values in enumerate(samples, start=1))
    for sample in data:
        if sample.n < 2:
            raise CannotTestError(_NAME, f"{sample.name!r} has 1 value, so every resample is the same")
    if paired and len({sample.n for sample in data}) > 1:
        raise CannotTestError(_NAME, f"pairs need samples of one length, not {[sample.n for sample in data]}")
    return data


def _evaluated(statistic: Callable[..., float], data: Sequence[Sample], *kept: Any) -> float:
    """The statistic of the samples, or of each sample's values at the positions `kept`."""
    vectors = (
        [sample.values[positions] for sample, positions in zip(data, kept, strict=True)]
        if kept
        else [sample.values.copy() for sample in data]
    )
    with np.errstate(all="ignore"):
        value = statistic(*vectors)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise CannotTestError(_NAME, f"the statistic must return one number, not {value!r}") from None


@dataclass(frozen=True, slots=True)
class _Units:
    """The units that are drawn whole: unit u is the positions `order[starts[u] : starts[u] + sizes[u]]`."""

    order: Codes
    starts: Codes
    sizes: Codes

    @property
    def count(self) -> int:
        return int(self.sizes.size)

    def positions(self, units: Codes) -> Codes:
        """The positions of all units named, in their order."""
        sizes = self.sizes[units]
        ends = np.cumsum(sizes)
        return cast(Codes, self.order[np.arange(ends[-1]) + np.repeat(self.starts[units] - (ends - sizes), sizes)])


def _together(data: Sequence[Sample], paired: bool, clusters: Clusters | None) -> _Units | None:
    """The positions drawn as one unit, if all samples are drawn together; None if each is drawn on its own."""
    if clusters is None:
        each = np.arange(data[0].n)
        return _Units(each, each, np.ones_like(each)) if paired else None
    if len(data) > 1 and not paired:
        raise CannotTestError(
            _NAME,
            f"clusters are labels of the positions that {len(data)} samples share; pass paired=True if they do share "
            "them, and bootstrap each sample on its own if they do not",
        )
    codes = read_clusters(_NAME, clusters, data[0].n)
    sizes = np.bincount(codes)
    return _Units(np.argsort(codes, kind="stable"), np.cumsum(sizes) - sizes, sizes)


def _cluster_notes(count: int) -> tuple[str, ...]:
    few = f"; {count} are few, and the interval tends to be too narrow" if count < FEW_CLUSTERS else ""
    return (f"{count} clusters resampled whole{few}",)


def _takes_axis(statistic: Callable[..., float]) -> bool:
    try:
        return "axis" in inspect.signature(statistic).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return False


def _batched(statistic: Callable[..., Any], data: Sequence[Sample], paired: bool, resamples: int, seed: int) -> Vector:
    """The same replicates from the same draws as `_replicates`, many rows at a time."""
    streams = [np.random.default_rng([seed, place]) for place in range(len(data))]
    replicates = np.empty(resamples)
    rows = max(1, _BATCH // max(sample.n for sample in data))
    for start in range(0, resamples, rows):
        height = min(rows, resamples - start)
        drawn: list[Any] = []
        positions: Any = None
        for stream, sample in zip(streams, data, strict=True):
            if positions is None or not paired:
                positions = stream.integers(0, sample.n, (height, sample.n))
            drawn.append(sample.values.take(positions, mode="clip"))  # all in range; "clip" spares the check
        del positions
        with np.errstate(all="ignore"):
            found = np.asarray(statistic(*drawn, axis=-1))
        if found.shape != (height,):
            raise CannotTestError(
                _NAME,
                f"a vectorized statistic must return one number per resample, shape ({height},) with axis=-1, not "
                f"{found.shape}; pass vectorized=False for one that takes single resamples",
            )
        replicates[start : start + height] = found
    return replicates


def _replicates(
    statistic: Callable[..., float], data: Sequence[Sample], together: _Units | None, resamples: int, seed: int
) -> Vector:
    streams = [np.random.default_rng([seed, place]) for place in range(len(data))]
    replicates = np.empty(resamples)
    for index in range(resamples):
        if together is not None:
            drawn = streams[0].integers(0, together.count, together.count)
            kept = [together.positions(drawn)] * len(data)
        else:
            kept = [stream.integers(0, sample.n, sample.n) for stream, sample in zip(streams, data, strict=True)]
        replicates[index] = _evaluated(statistic, data, *kept)
    return replicates


def _acceleration(
    statistic: Callable[..., float], data: Sequence[Sample], together: _Units | None, exponent: int
) -> float:
    """Efron's acceleration by the jackknife; over several samples as in Davison & Hinkley (1997, 5.4)."""
    cubes = squares = 0.0
    for place, sample in enumerate(data if together is None else data[:1]):
        units = sample.n if together is None else together.count
        blocks = np.array_split(np.arange(units), min(units, _JACKKNIFED_BLOCKS))
        left_out = np.empty(len(blocks))
        for index, block in enumerate(blocks):
            gone = block if together is None else together.positions(block)
            without = np.ones(sample.n, dtype=np.bool_)
            without[gone] = False
            kept = [without if together is not None or place == other else slice(None) for other in range(len(data))]
            left_out[index] = _evaluated(statistic, data, *kept)
        with np.errstate(over="ignore", under="ignore"):
            left_out = np.ldexp(left_out, -exponent)
        if not np.isfinite(left_out).all():
            return math.nan
        influence = (left_out.mean() - left_out) * (len(blocks) - 1.0)
        cubes += float((influence**3).sum()) / len(blocks) ** 3
        squares += float((influence**2).sum()) / len(blocks) ** 2
    return cubes / (6.0 * squares**1.5) if squares > 0.0 else math.nan
