"""Time series split by subject for training, validation and test, and standardised."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .errors import DataError
from .seeds import fold_seeds
from .series import SeriesSet
from .table_splits import Scaling

__all__ = ["SeriesScaling", "SeriesSplits", "fit_scaling", "split_series"]

# Where values are clipped: one in a thousand on either side.
CLIPPED = 0.001


@dataclass(frozen=True)
class SeriesScaling:
    """The way of series, and of what a model says of them, to and from the original units.

    Attributes:
        values: Mean and standard deviation of each feature.
        time_scale: What the times are divided by, positive.
        limits: float64, the lowest and the highest value of each feature, ``(d,)`` both, in
            original units; values beyond them are clipped before they are standardised. ``None``:
            none are.
    """

    values: Scaling
    time_scale: float = 1.0
    limits: tuple[Tensor, Tensor] | None = None

    def standardise(self, values: Tensor) -> Tensor:
        """Clipped where there are limits, then ``(values - mean) / std``, for ``(..., d)``."""
        if self.limits is not None:
            low, high = (limit.to(values) for limit in self.limits)
            values = values.clamp(low, high)
        return self.values.standardise(values)

    def restore(self, values: Tensor) -> Tensor:
        """Values in original units, for ``(..., d)``; a clipped value stays clipped."""
        return self.values.restore(values)

    def restore_std(self, std: Tensor) -> Tensor:
        """Standard deviations in original units, for ``(..., d)``: ``std * scale``."""
        return (std.double() * self.values.std.to(std.device)).to(std.dtype)

    def standardise_times(self, times: Tensor) -> Tensor:
        """Times in units of `time_scale`, in their own type."""
        return (times.double() / self.time_scale).to(times.dtype)

    def restore_times(self, times: Tensor) -> Tensor:
        """The inverse of `standardise_times`."""
        return (times.double() * self.time_scale).to(times.dtype)

    def apply(self, series: SeriesSet) -> SeriesSet:
        """The set in these units: times in single precision, 0 where nothing was observed.

        Raises:
            DataError: If it has another number of features.
        """
        if series.width != len(self.values.mean):
            raise DataError(
                f"{series.name}: {series.width} feature(s), but the scaling is one of "
                f"{len(self.values.mean)}; give series with the features it was fitted on"
            )
        lengths = series.lengths.tolist()
        mask = torch.cat(series.mask)
        values = self.standardise(torch.cat(series.values).where(mask, 0.0)).where(mask, 0.0)
        times = self.standardise_times(torch.cat(series.times).double()).float()
        until = series.until
        if until is not None:
            until = self.standardise_times(until.double()).float()
        return dataclasses.replace(
            series, times=times.split(lengths), values=values.split(lengths), until=until
        )


@dataclass(frozen=True)
class SeriesSplits:
    """The three parts of a set, standardised by what was observed in the training part.

    Attributes:
        train: Series to train on.
        validation: Series to choose the model by.
        test: Series to report on.
        scaling: To and from the original units.
    """

    train: SeriesSet
    validation: SeriesSet
    test: SeriesSet
    scaling: SeriesScaling


def split_series(
    series: SeriesSet,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    *,
    standardise: bool = True,
    clip: bool = False,
    time_scale: float | None = None,
) -> SeriesSplits:
    """Split a set by subject: all series of one subject lie in the same part.

    Where there are labels, the parts are stratified: each has its share of the subjects of each
    label, to within two. A subject whose series differ in label counts with the largest. The split
    depends on the names of the subjects, their labels and the seed, not on the order of the series.

    Args:
        series: The whole.
        validation, test: Parts of the subjects; each part has at least one.
        seed: Which split; the same seed gives the same split everywhere.
        standardise: Whether the parts are scaled. Otherwise the scaling changes nothing, save that
            times come in single precision.
        clip, time_scale: See `fit_scaling`.

    Raises:
        InputError: If the parts are not positive, or leave nothing to train on.
        DataError: If there are fewer than three subjects, or none is left to train on.
    """
    if not (validation > 0 and test > 0 and validation + test < 1):
        given = f"{validation!r} and {test!r}"
        raise InputError("validation, test", given, "two positive numbers with a sum below 1")
    # Strata one after another, each in random order, from which every n-th subject is taken.
    order = _shuffled(series, seed)
    if len(order) < 3:
        raise DataError(
            f"{series.name}: {len(order)} subject(s) for {len(series)} series, but at least 3 are "
            "needed to train, validate and test, since no subject may lie in two parts"
        )
    sizes = [max(1, round(part * len(order))) for part in (test, validation)]
    generator = torch.Generator().manual_seed(fold_seeds(seed, 1))
    rest, parts = order, []
    for size in sizes:
        if size >= len(rest):
            raise DataError(
                f"{series.name}: {sizes[1]} of {len(order)} subject(s) to validate and {sizes[0]} "
                "to test leave none to train on; use smaller parts, or more subjects"
            )
        chosen, rest = _spaced(rest, size, generator)
        parts.append(_of(series, chosen))
    last, held_out = parts
    train = _of(series, rest)
    scaling = _unchanged(series.width)
    if standardise:
        scaling = fit_scaling(train, clip=clip, time_scale=time_scale)
    return SeriesSplits(
        train.scaled(scaling), held_out.scaled(scaling), last.scaled(scaling), scaling
    )


def fit_scaling(
    train: SeriesSet, *, clip: bool = False, time_scale: float | None = None
) -> SeriesScaling:
    """Mean and deviation of what was observed, feature by feature.

    A feature with one value alone is centred and keeps its unit; one that was never observed is
    left as it is.

    Args:
        train: The training part.
        clip: Whether values beyond the quantiles 0.001 and 0.999 of each feature are clipped, here
            and wherever the scaling is applied. Charts hold slips of the pen: one pH of 735 among
            20,000 near 7.4 makes a deviation of 5, by which all the others become one number. It
            alters what is predicted too, so that errors are to be reported as those on clipped
            values. A feature with fewer than 1,000 values has no such quantile, and is not clipped.
        time_scale: What times are divided by; ``None`` for the largest time or end of a window,
            so that training times end at 1.

    Raises:
        InputError: If `time_scale` is not positive and finite.
    """
    if time_scale is None:
        ends = [
            *(time[-1:] for time in train.times),
            *([] if train.until is None else [train.until]),
        ]
        time_scale = float(torch.cat(ends).max()) if sum(map(len, ends)) else 1.0
        time_scale = time_scale if time_scale > 0 else 1.0
    if not 0 < time_scale < float("inf"):
        raise InputError("time_scale", repr(time_scale), "a positive number, or None")
    values, mask = torch.cat(train.values).double(), torch.cat(train.mask)
    mean, std = torch.zeros(train.width).double(), torch.ones(train.width).double()
    low, high = (torch.full_like(mean, float(sign + "inf")) for sign in "-+")
    for feature in range(train.width):
        seen = values[mask[:, feature], feature]
        if len(seen) == 0:
            continue
        if clip:
            low[feature], high[feature] = _quantiles(seen)
            seen = seen.clamp(low[feature], high[feature])
        mean[feature] = seen.mean()
        if bool(seen.min() < seen.max()):
            std[feature] = seen.std(correction=0)
    return SeriesScaling(Scaling(mean, std), time_scale, (low, high) if clip else None)


def _quantiles(seen: Tensor) -> tuple[Tensor, Tensor]:
    # By sorting: torch.quantile refuses more than 16 million values.
    ordered = seen.sort().values
    outside = int(CLIPPED * len(seen))
    return ordered[outside], ordered[-1 - outside]


def _unchanged(width: int) -> SeriesScaling:
    return SeriesScaling(Scaling(torch.zeros(width).double(), torch.ones(width).double()))


def _shuffled(series: SeriesSet, seed: int) -> list[str]:
    """Subjects by label, in random order within each."""
    stratum: dict[str, int] = dict.fromkeys(series.subjects, 0)
    if series.labels is not None:
        for subject in stratum:
            stratum[subject] = -(2**63)
        for subject, label in zip(series.subjects, series.labels.tolist(), strict=True):
            stratum[subject] = max(stratum[subject], label)
    strata: defaultdict[int, list[str]] = defaultdict(list)
    for subject in sorted(stratum):
        strata[stratum[subject]].append(subject)
    order: list[str] = []
    for number, label in enumerate(sorted(strata)):
        generator = torch.Generator().manual_seed(fold_seeds(seed, 0, number))
        shuffle = torch.randperm(len(strata[label]), generator=generator).tolist()
        order += [strata[label][index] for index in shuffle]
    return order


def _spaced(order: list[str], size: int, generator: torch.Generator) -> tuple[list[str], list[str]]:
    """Evenly spaced subjects, from a random start, and the others.

    The rows of each stratum stand together, so that each gives its share to within one.
    """
    start = torch.rand(1, generator=generator, dtype=torch.float64)
    places = ((torch.arange(size) + start) * len(order) / size).long().clamp(max=len(order) - 1)
    chosen = set(places.tolist())
    return (
        [subject for place, subject in enumerate(order) if place in chosen],
        [subject for place, subject in enumerate(order) if place not in chosen],
    )


def _of(series: SeriesSet, subjects: list[str]) -> SeriesSet:
    wanted = set(subjects)
    return series.subset([i for i, subject in enumerate(series.subjects) if subject in wanted])
