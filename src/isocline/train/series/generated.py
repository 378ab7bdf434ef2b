"""Series that are drawn from a seed, of which the truth is known."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...data import (
    Bumps,
    Daily,
    Decaying,
    Intensity,
    Scaling,
    SeriesScaling,
    event_series,
    fold_seeds,
    lead_lag,
    moved_intensities,
    spirals,
)
from .config import SPIRAL_POINTS, SeriesSettings
from .parts import Part, Source, Truth, space_of, thinned

__all__ = ["generate"]

# Streams of random numbers that must not be each other's.
TRAIN, VALIDATION, TEST, POINTS = range(4)
# How much the series of events differ: in time, and in the logarithm of the rate.
SHIFT, SPREAD = 0.5, 0.3
INTENSITIES: dict[str, type[Intensity]] = {"daily": Daily, "bumps": Bumps, "decaying": Decaying}


def generate(config: SeriesSettings, seed: int, dropped: float) -> Source:
    """Draw spirals, events or signals.

    Args:
        config: The settings.
        seed: What is drawn follows from it.
        dropped: Share of the observations of every series that are dropped at random.
    """
    if config.data == "events":
        return _events(config, seed)
    if config.data == "spirals":
        return _spirals(config, seed, dropped)
    return _signals(config, seed, dropped)


def _spirals(config: SeriesSettings, seed: int, dropped: float) -> Source:
    count = SPIRAL_POINTS if config.observed is None else config.observed

    def part(stream: int, number: int) -> Part:
        own = spirals(
            number, SPIRAL_POINTS, noise=config.noise, observed=count, seed=fold_seeds(seed, stream)
        )
        series = thinned(own.series(), dropped, fold_seeds(seed, stream))
        return Part(series, Truth(own.times, own.clean, own.points))

    return _generated(config, 1.0, part)


def _events(config: SeriesSettings, seed: int) -> Source:
    base = INTENSITIES[config.intensity]()

    def part(stream: int, number: int) -> Part:
        own = moved_intensities(base, number, SHIFT, SPREAD, seed=fold_seeds(seed, stream))
        series = event_series(own, seed=fold_seeds(seed, stream, POINTS))
        return Part(series, intensities=own)

    return _generated(config, base.end, part)


def _signals(config: SeriesSettings, seed: int, dropped: float) -> Source:
    def part(stream: int, number: int) -> Part:
        return Part(lead_lag(number, dropped=dropped, seed=fold_seeds(seed, stream)))

    return _generated(config, 1.0, part)


def _generated(config: SeriesSettings, end: float, part: Callable[[int, int], Part]) -> Source:
    """Parts drawn each from a stream of its own, of which times alone are scaled."""
    drawn = {
        stream: part(stream, number)
        for stream, number in (
            (TRAIN, config.number),
            (VALIDATION, config.validation_size),
            (TEST, config.test_size),
        )
    }
    assert config.span is not None
    ones = torch.ones(drawn[TRAIN].series.width, dtype=torch.float64)
    scaling = SeriesScaling(Scaling(0 * ones, ones), end / config.span)
    train, validation, test = (
        drawn[stream].scaled(scaling) for stream in (TRAIN, VALIDATION, TEST)
    )
    return Source(space_of(train.series, scaling, config), train, validation, test)
