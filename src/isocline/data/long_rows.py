"""From measurements one in a row to series: what every reader of series shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from .errors import DataError
from .reading import Tally
from .series import SeriesSet

__all__ = ["Key", "LongRows", "Outcomes", "Rules", "assemble", "nothing_left"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# What tells a series: its subject, and its record where a subject has several ("" otherwise).
Key = tuple[str, str]

BEYOND_SINGLE = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class LongRows:
    """Measurements, one in a row, in any order.

    Attributes:
        keys: The series; one of them may have no row.
        series: int64, ``(n,)``, index into `keys`.
        times: float64, ``(n,)``.
        features: int64, ``(n,)``, index into the names of the features; of no meaning without any.
        values: float64, ``(n,)``; of no meaning without features.
        place: Where row `i` stood, and what, for messages.
    """

    keys: list[Key]
    series: Ints
    times: Floats
    features: Ints
    values: Floats
    place: Callable[[int], str]


@dataclass(frozen=True)
class Outcomes:
    """What is known of each series as a whole.

    Attributes:
        labels: Label of each series, or ``None`` where there are no labels.
        until: End of the window of each series, or ``None`` where that is not known.
        source: The file.
    """

    labels: dict[Key, int] | None
    until: dict[Key, float] | None
    source: str

    @property
    def keys(self) -> list[Key]:
        """Series of which all is known, in their order."""
        parts = [part for part in (self.labels, self.until) if part is not None]
        return [key for key in parts[0] if all(key in part for part in parts)] if parts else []

    def of(self, keys: list[Key]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Labels and ends of some of the series, int64 and float64."""
        labels = until = None
        if self.labels is not None:
            labels = torch.tensor([self.labels[key] for key in keys])
        if self.until is not None:
            until = torch.tensor([self.until[key] for key in keys], dtype=torch.float64)
        return labels, until


@dataclass(frozen=True)
class Rules:
    """What a measurement must be.

    Attributes:
        span: The first and the last time at which one may stand.
        missing: The value that says that there is none.
        once: Features that are noted once for each series: of several values the least is kept.
        most: Features, and the highest value that is told of each: what is beyond stands for it.
    """

    span: tuple[float, float] = (-np.inf, np.inf)
    missing: float | None = None
    once: tuple[str, ...] = ()
    most: tuple[tuple[str, float], ...] = ()


def assemble(
    rows: LongRows,
    features: tuple[str, ...],
    outcomes: Outcomes | None,
    rules: Rules,
    tally: Tally,
    source: str,
) -> SeriesSet:
    """Make series of measurements.

    Rows that are at fault are counted and left out. Of several values of one feature at one time
    the mean is kept. Where there are outcomes, a series without one is left out, and the series
    come in the order of the outcomes; else in their own.

    Args:
        rows: The measurements.
        features: Names of the features; none for events.
        outcomes: What is known of each series.
        rules: What a measurement must be.
        tally: Where faults are counted; the reader has counted the rows there.
        source: For messages.

    Raises:
        DataError: If no series is left.
    """
    rows = _told(rows, features, rules)
    order = rows.keys if outcomes is None else _order(rows, outcomes, bool(features), tally)
    series = _ranks(rows, order)
    until = None if outcomes is None else outcomes.of(order)[1]
    sound = _sound(rows, _faults(rows, series, bool(features), rules, until), tally)
    sound = _once(rows, series, sound, [features.index(name) for name in rules.once], tally)
    sorted_by = (rows.features, rows.times, series) if features else (rows.times, series)
    index = sound[np.lexsort([key[sound] for key in sorted_by])]
    series, times = series[index], rows.times[index]
    # Two events at one time are two rows.
    starts = _changes(series, times) if features else np.ones(len(index), dtype=np.bool_)
    values = np.zeros((int(starts.sum()), len(features)), dtype=np.float32)
    mask = np.zeros_like(values, dtype=np.bool_)
    if features:
        _fill(values, mask, index, starts, rows, tally)
    lengths = np.bincount(series[starts], minlength=len(order))
    filled = _filled(lengths, order, tally) if features else np.arange(len(order))
    if not len(filled):
        raise nothing_left(tally, source)

    def parts(whole: npt.NDArray[np.generic]) -> tuple[torch.Tensor, ...]:
        split = torch.from_numpy(whole).split(lengths.tolist())
        return tuple(split[number] for number in filled)

    keys = [order[number] for number in filled]
    labels, ends = (None, None) if outcomes is None else outcomes.of(keys)
    return SeriesSet(
        parts(times[starts]),
        parts(values),
        parts(mask),
        tuple(subject for subject, _ in keys),
        features,
        labels,
        ends,
        source,
        tally.reading(source, int(mask.sum()) if features else len(index)),
    )


def _order(rows: LongRows, outcomes: Outcomes, measured: bool, tally: Tally) -> list[Key]:
    """The series of which all is known; without measurements, also those without a row."""
    known = outcomes.keys
    found = set(rows.keys)
    for key in [key for key in known if key not in found] if measured else []:
        example = f"{_named(key)} in {outcomes.source}"
        tally.add("outcome without a series", example, unit="series")
    for key in sorted(found - set(known)):
        tally.add("series without an outcome", _named(key), unit="series")
    return [key for key in known if key in found or not measured]


def _ranks(rows: LongRows, order: list[Key]) -> Ints:
    """The place of each row's series in the order, -1 for a series that is not in it."""
    rank = {key: number for number, key in enumerate(order)}
    ranks = np.array([rank.get(key, -1) for key in rows.keys] or [-1], dtype=np.int64)
    return ranks[rows.series]


def _faults(
    rows: LongRows, series: Ints, measured: bool, rules: Rules, until: torch.Tensor | None
) -> dict[str, Bools]:
    """For each reason the rows with that fault."""
    low, high = rules.span
    faults: dict[str, Bools] = {
        "row of a series without an outcome": series < 0,
        "time that is missing or not finite": ~np.isfinite(rows.times),
        f"time outside {low:g} to {high:g}": (rows.times < low) | (rows.times > high),
    }
    if measured:
        if rules.missing is not None:
            reason = f"not measured (marked by {rules.missing:g})"
            faults[reason] = rows.values == rules.missing
        # A NaN fails the comparison too.
        faults["value that is missing or not finite"] = ~(np.abs(rows.values) <= BEYOND_SINGLE)
    if until is not None and len(until):
        faults["row beyond the end of its window"] = rows.times > until.numpy()[series]
    return faults


def _sound(rows: LongRows, faults: dict[str, Bools], tally: Tally) -> Ints:
    """Indices of the rows without a fault; a row with several counts under the first."""
    sound = np.ones(len(rows.series), dtype=np.bool_)
    for reason, wrong in faults.items():
        new = np.flatnonzero(wrong & sound)
        if len(new):
            tally.add(reason, rows.place(int(new[0])), len(new))
            sound[new] = False
    return np.flatnonzero(sound)


def _told(rows: LongRows, features: tuple[str, ...], rules: Rules) -> LongRows:
    """The rows with values cut down to the highest that is told."""
    values = rows.values
    for name, most in rules.most:
        cut = (rows.features == features.index(name)) & (values > most)
        values = np.where(cut, most, values)
    return dataclasses.replace(rows, values=values)


def _once(rows: LongRows, series: Ints, sound: Ints, features: list[int], tally: Tally) -> Ints:
    """The sound rows without the further values of features that are noted once."""
    noted = sound[np.isin(rows.features[sound], features)]
    noted = noted[np.lexsort((rows.values[noted], rows.features[noted], series[noted]))]
    again = noted[~_changes(series[noted], rows.features[noted])] if len(noted) else noted
    if not len(again):
        return sound
    reason = "another value of what is noted once (the least is kept)"
    tally.add(reason, rows.place(int(again[0])), len(again))
    return sound[~np.isin(sound, again)]


def _changes(*columns: npt.NDArray[np.generic]) -> Bools:
    """Where any of the columns differs from the row before."""
    changes = np.zeros(len(columns[0]), dtype=np.bool_)
    changes[:1] = True
    for column in columns:
        changes[1:] |= column[1:] != column[:-1]
    return changes


def _fill(
    values: npt.NDArray[np.float32],
    mask: Bools,
    index: Ints,
    starts: Bools,
    rows: LongRows,
    tally: Tally,
) -> None:
    """Write each value into its place."""
    feature = rows.features[index]
    first = _changes(feature) | starts
    cells = np.flatnonzero(first)
    repeats = np.diff(np.append(cells, len(first)))
    if len(cells) < len(first):
        again = int(np.flatnonzero(~first)[0])
        reason = "another value of the same feature at the same time (the mean is kept)"
        tally.add(reason, rows.place(int(index[again])), len(first) - len(cells))
    if len(cells):
        row = np.cumsum(starts)[cells] - 1
        # Divided first, lest the sum of large values overflow.
        shares = rows.values[index] / np.repeat(repeats, repeats)
        values[row, feature[cells]] = np.add.reduceat(shares, cells)
        mask[row, feature[cells]] = True


def _filled(lengths: Ints, order: list[Key], tally: Tally) -> Ints:
    """Which series have a row; the others are counted."""
    for number in np.flatnonzero(lengths == 0):
        tally.add("series without a measurement", _named(order[number]), unit="series")
    return np.flatnonzero(lengths)


def _named(key: Key) -> str:
    subject, record = key
    return f"subject {subject}, record {record}" if record else subject


def nothing_left(tally: Tally, source: str) -> DataError:
    """The error of a data set in which nothing could be read."""
    faults = "; ".join(f"{reason}: {fault}" for reason, fault in tally.faults.items())
    return DataError(
        f"{source}: no series is left of {tally.rows:,} row(s); "
        f"{faults or 'expected at least one measurement'}"
    )
