"""Series in a model's units: the parts of a data set, and what is known of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...data import Intensity, Reading, Scaling, SeriesScaling, SeriesSet, fold_seeds
from ...irregular import IrregularBatch
from .config import SeriesSettings
from .space import SeriesSpace

__all__ = ["Part", "Source", "Truth", "space_of", "thinned", "unscaled"]

# The stream of random numbers by which observations are dropped.
DROPPED = 3


@dataclass(frozen=True)
class Truth:
    """What generated series would be without noise.

    Attributes:
        times: ``(times,)``, rising.
        values: ``(series, times, features)``.
        inside: How many of the times, from the first, may have been observed.
    """

    times: Tensor
    values: Tensor
    inside: int

    @property
    def split(self) -> float:
        """The last time that may have been observed."""
        return float(self.times[self.inside - 1])


@dataclass(frozen=True)
class Part:
    """One part of the data, in the model's units.

    Attributes:
        series: The series.
        truth: Of their values, where it is known.
        intensities: Of their events, where they are known.
    """

    series: SeriesSet
    truth: Truth | None = None
    intensities: Sequence[Intensity] = ()

    def scaled(self, scaling: SeriesScaling) -> Part:
        """The part in the units of a scaling; intensities stay in those of the data."""
        truth = self.truth
        if truth is not None:
            times = scaling.standardise_times(truth.times)
            truth = Truth(times, scaling.standardise(truth.values), truth.inside)
        return dataclasses.replace(self, series=self.series.scaled(scaling), truth=truth)

    @cached_property
    def batch(self) -> IrregularBatch:
        """All of them in one batch."""
        return self.series.batch()

    @property
    def labels(self) -> Tensor | None:
        """int64, ``(series,)``, or ``None``."""
        return self.series.labels


@dataclass(frozen=True)
class Source:
    """What a model learns from.

    Attributes:
        space: Features, and units.
        train: Series to train on.
        validation: Series on which the best weights are chosen.
        test: Series for the result.
        reading: What came of reading a file.
    """

    space: SeriesSpace
    train: Part
    validation: Part
    test: Part
    reading: Reading | None = None

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of series to train, validate and test."""
        return len(self.train.series), len(self.validation.series), len(self.test.series)


def thinned(series: SeriesSet, dropped: float, seed: int) -> SeriesSet:
    """The set without a random share of its rows; of each series one stays."""
    if not dropped:
        return series
    kept = []
    draws = torch.Generator().manual_seed(fold_seeds(seed, DROPPED))
    for time in series.times:
        order = torch.rand(len(time), generator=draws).argsort()
        kept.append(order[: max(1, round((1 - dropped) * len(time)))].sort().values)

    def rows(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(part[own] for part, own in zip(parts, kept, strict=True))

    return dataclasses.replace(
        series, times=rows(series.times), values=rows(series.values), mask=rows(series.mask)
    )


def unscaled(width: int) -> SeriesScaling:
    """A scaling that changes nothing."""
    ones = torch.ones(width, dtype=torch.float64)
    return SeriesScaling(Scaling(0 * ones, ones))


def space_of(
    train: SeriesSet, scaling: SeriesScaling, config: SeriesSettings, classes: int | None = None
) -> SeriesSpace:
    """The space of training series that are in the model's units already."""
    if classes is None:
        classes = 0 if train.labels is None else 1 + int(train.labels.max())
    last = max((float(time[-1]) for time in train.times if len(time)), default=1.0)
    until = last if train.until is None else float(train.until.max())
    counts = train.observed if train.width else train.lengths.sum().reshape(1)
    spans = len(train) * until if train.until is None else float(train.until.sum())
    rates = counts.double() / max(spans, 1e-12)
    return SeriesSpace(
        train.features,
        scaling,
        classes=classes,
        bin=float(config.bin or 0.0),
        align=config.align,
        until=until,
        rates=tuple(rates.tolist()),
        gap=_usual_gap(train),
        complete=bool(torch.cat(train.mask).all()),
    )


def _usual_gap(series: SeriesSet) -> float:
    """The median time between rows that differ in time; 1 where no two do."""
    gaps = torch.cat([time.diff() for time in series.times])
    gaps = gaps[gaps > 0]
    return float(gaps.median()) if len(gaps) else 1.0
