"""Where series come from: drawn from a seed, or read from files, and split."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from ...data import (
    DataError,
    SeriesSet,
    SeriesSplits,
    read_physionet,
    read_series,
    simulated_stays,
    split_series,
)
from ..errors import ConfigError
from .config import SeriesSettings, kind_of_data
from .generated import generate
from .parts import Part, Source, space_of, thinned, unscaled
from .space import SeriesSpace

__all__ = ["make_source", "read_file"]

# A stay in intensive care, in hours.
PHYSIONET_END = 48.0
# Where the earliest time is beyond this share of the latest, times count from somewhere else.
FAR = 0.5


def make_source(
    config: SeriesSettings, seed: int, dropped: float = 0.0, *, binary: bool = False
) -> Source:
    """Make the source that resolved settings name.

    Args:
        config: The settings.
        seed: What is drawn and how it is split follows from it.
        dropped: Share of the observations of every series that are dropped at random.
        binary: Whether values are 0 or 1, and stay so.

    Raises:
        DataError: If a file cannot be read, or its contents cannot be learnt from.
        ConfigError: If a setting does not fit the data.
    """
    source = _source(config, seed, dropped, binary=binary)
    if binary:
        _check_binary(source)
    return source


def _source(config: SeriesSettings, seed: int, dropped: float, *, binary: bool) -> Source:
    if config.data in ("spirals", "events", "signals"):
        return generate(config, seed, dropped)
    if config.data == "stays":
        return _stays(config, seed, dropped)
    return _file(config, seed, dropped, binary=binary)


def read_file(
    data: str,
    path: Path | None = None,
    outcomes: Path | None = None,
    features: tuple[str, ...] | None = None,
) -> SeriesSet:
    """Read series from what ``--data`` and ``--path`` name.

    Args:
        data: ``physionet``, or a path: a table, a folder of tables, or the challenge's data, which
            are known by their form.
        path: Where the data of ``physionet`` are.
        outcomes: The file of outcomes.
        features: The features to read; ``None`` for all.

    Raises:
        DataError: If it cannot be read.
    """
    if data == "physionet":
        assert path is not None
        return read_physionet(path, outcomes)
    place = Path(data)
    if place.suffix.lower() == ".npz" or (place.is_dir() and any(place.glob("[0-9]*.txt"))):
        return read_physionet(place, outcomes)
    return read_series(place, outcomes, features=features)


def _stays(config: SeriesSettings, seed: int, dropped: float) -> Source:
    held_out, test = config.validation_size, config.test_size
    whole = simulated_stays(config.number + held_out + test, seed=seed)
    whole = thinned(whole, dropped, seed)
    return _split(whole, config, seed, held_out / len(whole), test / len(whole))


def _file(config: SeriesSettings, seed: int, dropped: float, *, binary: bool) -> Source:
    read = read_file(config.data, config.path, config.outcomes)
    if read.labels is not None and int(read.labels.min()) < 0:
        raise DataError(f"{read.name}: label {int(read.labels.min())}; expected 0, 1, 2, ...")
    raw = SeriesSpace(
        read.features,
        unscaled(read.width),
        bin=float(config.bin or 0.0),
        align=config.align,
    )
    whole = thinned(raw.prepared(read), dropped, seed)
    _check_times(whole)
    if whole.until is None:
        # Watched to the end of a stay, or else until the latest time at which anything was seen.
        latest = float(torch.cat(whole.times).max())
        end = max(latest, PHYSIONET_END) if kind_of_data(config.data) == "physionet" else latest
        until = torch.full((len(whole),), end, dtype=whole.times[0].dtype)
        whole = dataclasses.replace(whole, until=until)
    return _split(whole, config, seed, standardise=not binary)


def _split(
    whole: SeriesSet,
    config: SeriesSettings,
    seed: int,
    validation: float = 0.1,
    test: float = 0.2,
    *,
    standardise: bool = True,
) -> Source:
    def split(time_scale: float | None) -> SeriesSplits:
        clip = config.outliers == "clip"
        return split_series(whole, validation, test, seed, clip=clip, time_scale=time_scale)

    assert config.span is not None
    splits = split(None)
    if config.span != 1:
        splits = split(splits.scaling.time_scale / config.span)
    scaling = splits.scaling
    if not standardise:
        scaling = dataclasses.replace(unscaled(whole.width), time_scale=scaling.time_scale)
        raw = split_series(whole, validation, test, seed, standardise=False)
        train, held_out, last = (
            part.scaled(scaling) for part in (raw.train, raw.validation, raw.test)
        )
        splits = SeriesSplits(train, held_out, last, scaling)
    return Source(
        space=space_of(splits.train, scaling, config, _classes(splits)),
        train=Part(splits.train),
        validation=Part(splits.validation),
        test=Part(splits.test),
        reading=whole.reading,
    )


def _classes(splits: SeriesSplits) -> int:
    parts = (splits.train, splits.validation, splits.test)
    labels = [part.labels for part in parts if part.labels is not None]
    return 1 + int(torch.cat(labels).max()) if labels else 0


def _check_times(series: SeriesSet) -> None:
    first = min((float(time[0]) for time in series.times if len(time)), default=0.0)
    last = max((float(time[-1]) for time in series.times if len(time)), default=0.0)
    if FAR * last < first < last:
        raise ConfigError(
            f"{series.name}: times go from {first:g} to {last:g}, but a model's time begins at 0; "
            "give --align to count the times of each series from its first row"
        )


def _check_binary(source: Source) -> None:
    for part in (source.train, source.validation, source.test):
        values = part.batch.values
        if not bool(((values == 0) | (values == 1)).all()):
            wrong = float(values[(values != 0) & (values != 1)][0])
            raise DataError(
                f"{part.series.name}: a value is {wrong:g}, but --likelihood bernoulli is of "
                "values that are 0 or 1; use gaussian"
            )
