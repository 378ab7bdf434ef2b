"""Data sets of time series, each with times of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InputError
from ..irregular import IrregularBatch
from .errors import DataError
from .reading import Reading

if TYPE_CHECKING:
    from .series_splits import SeriesScaling

__all__ = ["SeriesSet"]

FLOATS = (torch.float32, torch.float64)


@dataclass(frozen=True)
class SeriesSet:
    """Time series in memory.

    Attributes:
        times: For each series ``(rows,)``, float32 or float64, rising; equal times are allowed.
        values: For each series float32, ``(rows, d)``; what is not observed counts for nothing.
            ``d`` may be 0: a series of events has nothing but times.
        mask: For each series bool, ``(rows, d)``: what was observed.
        subjects: For each series, of whom or of what it is. Several series may have one subject.
        features: Names of the `d` features.
        labels: int64, ``(series,)``, or ``None``.
        until: ``(series,)``, in the type of the times: the end of the window over which each was
            watched, or ``None``.
        name: Where it comes from, for messages.
        reading: What came of reading it, where it was read.

    Raises:
        DataError: If there are no series, the parts do not fit, times fall or are not finite, or
            an observed value is not finite.
    """

    times: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: tuple[Tensor, ...]
    subjects: tuple[str, ...]
    features: tuple[str, ...]
    labels: Tensor | None = None
    until: Tensor | None = None
    name: str = "series"
    reading: Reading | None = None

    def __post_init__(self) -> None:
        self._check_counts()
        self._check_series()
        self._check_ends()
        self._check_contents()

    def __len__(self) -> int:
        return len(self.times)

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self.features)

    @property
    def lengths(self) -> Tensor:
        """int64, ``(series,)``: rows of each series."""
        return torch.tensor([len(time) for time in self.times])

    @property
    def observed(self) -> Tensor:
        """int64, ``(d,)``: how many values of each feature there are."""
        return torch.cat(self.mask).sum(0)

    def batch(self, indices: Tensor | Sequence[int] | slice | None = None) -> IrregularBatch:
        """Some of the series, or all of them for ``None``, padded to the longest of them.

        Raises:
            InputError: If there is no series at an index.
        """
        chosen = self._indices(slice(None) if indices is None else indices)
        return IrregularBatch.collate(
            [self.times[index] for index in chosen],
            [self.values[index] for index in chosen],
            [self.mask[index] for index in chosen],
            None if self.until is None else self.until[chosen],
        )

    def subset(self, indices: Tensor | Sequence[int] | slice) -> SeriesSet:
        """Some of the series: indices, a slice, or a bool tensor with one entry for each.

        Raises:
            InputError: If there is no series at an index, or none is chosen.
        """
        chosen = self._indices(indices)
        return dataclasses.replace(
            self,
            times=tuple(self.times[index] for index in chosen),
            values=tuple(self.values[index] for index in chosen),
            mask=tuple(self.mask[index] for index in chosen),
            subjects=tuple(self.subjects[index] for index in chosen),
            labels=None if self.labels is None else self.labels[chosen],
            until=None if self.until is None else self.until[chosen],
        )

    def only(self, features: Sequence[str]) -> SeriesSet:
        """Some of the features, in this order; rows in which none of them was observed go.

        Raises:
            InputError: If there is no such feature, or none is named.
        """
        missing = [name for name in features if name not in self.features]
        if missing or not features:
            expected = f"some of {', '.join(self.features)}"
            raise InputError("features", repr(missing[0]) if missing else "none", expected)
        columns = torch.tensor([self.features.index(name) for name in features])
        rows = [seen[:, columns].any(1) for seen in self.mask]
        return dataclasses.replace(
            self,
            times=tuple(time[keep] for time, keep in zip(self.times, rows, strict=True)),
            values=tuple(v[keep][:, columns] for v, keep in zip(self.values, rows, strict=True)),
            mask=tuple(seen[keep][:, columns] for seen, keep in zip(self.mask, rows, strict=True)),
            features=tuple(features),
        )

    def quantised(self, width: float) -> SeriesSet:
        """Times on a grid, so that series share more of them and have fewer rows.

        Each time goes to the nearest multiple of `width`, as Rubanova, Chen and Duvenaud (2019) do
        with PhysioNet; of the values of one feature that meet there, the mean is kept. A window
        that ends before its last row then ends with it.

        Raises:
            InputError: If the width is not positive and finite.
            DataError: If there are no features: events that meet would be lost.
        """
        if not 0 < width < float("inf"):
            raise InputError("width", repr(width), "a positive number, in the unit of the times")
        if not self.features:
            raise DataError(
                f"{self.name}: events have no values to take the mean of, and two that meet would "
                "count as one; leave their times as they are"
            )
        steps = (torch.cat(self.times).double() / width).round()
        series = torch.repeat_interleave(torch.arange(len(self)), self.lengths)
        starts = torch.ones(len(steps), dtype=torch.bool)
        starts[1:] = (steps.diff() != 0) | (series.diff() != 0)
        place = starts.cumsum(0) - 1
        mask, values = torch.cat(self.mask), torch.cat(self.values)
        empty = torch.zeros(int(starts.sum()), self.width, dtype=torch.float64)
        total = empty.index_add(0, place, values.double().where(mask, 0.0))
        count = empty.index_add(0, place, mask.double())
        mean = (total / count.clamp(min=1)).float()
        lengths = torch.bincount(series[starts], minlength=len(self)).tolist()
        times = (steps[starts] * width).to(self.times[0].dtype).split(lengths)
        until = self.until
        if until is not None:
            last = [time[-1] if len(time) else end for time, end in zip(times, until, strict=True)]
            until = torch.maximum(until, torch.stack(last))
        return dataclasses.replace(
            self,
            times=times,
            values=mean.split(lengths),
            mask=(count > 0).split(lengths),
            until=until,
        )

    def scaled(self, scaling: SeriesScaling) -> SeriesSet:
        """The set in the units of a scaling, with times in single precision."""
        return scaling.apply(self)

    def _indices(self, indices: Tensor | Sequence[int] | slice) -> list[int]:
        every = torch.arange(len(self))
        try:
            picked = indices if isinstance(indices, slice) else torch.as_tensor(indices)
            chosen = every[picked]
        except (IndexError, TypeError, ValueError, RuntimeError) as error:
            expected = f"a slice, indices below {len(self)}, or a bool for each series"
            raise InputError("indices", str(error), expected) from error
        if chosen.ndim != 1 or len(chosen) == 0:
            raise InputError(
                "indices", f"{len(chosen.shape)} axes, {chosen.numel()} series", "some"
            )
        return [int(index) for index in chosen]

    def _check_counts(self) -> None:
        if not self.times:
            raise DataError(f"{self.name}: no series; expected at least one")
        counts = [len(part) for part in (self.times, self.values, self.mask, self.subjects)]
        if len(set(counts)) > 1:
            given = "{} times, {} values, {} masks, {} subjects".format(*counts)
            raise DataError(f"{self.name}: {given}; expected as many of each")
        twice = {name for name in self.features if self.features.count(name) > 1}
        if twice:
            raise DataError(
                f"{self.name}: more than one feature is named {min(twice)!r}; rename one"
            )

    def _check_series(self) -> None:
        dtype = self.times[0].dtype
        if dtype not in FLOATS:
            raise DataError(f"{self.name}: times of {dtype}; expected float32 or float64")
        parts = zip(self.times, self.values, self.mask, strict=True)
        for index, (time, value, seen) in enumerate(parts):
            shape = (len(time), self.width) if time.ndim == 1 else None
            if tuple(value.shape) != shape or tuple(seen.shape) != shape:
                given = ", ".join(str(tuple(part.shape)) for part in (time, value, seen))
                raise DataError(
                    f"{self.name}: series {index} ({self.subjects[index]}) has times, values and "
                    f"mask of shapes {given}; expected (rows,), then twice (rows, {self.width})"
                )
            types = (time.dtype, value.dtype, seen.dtype)
            if types != (dtype, torch.float32, torch.bool):
                given = ", ".join(map(str, types))
                raise DataError(
                    f"{self.name}: series {index} ({self.subjects[index]}) has times, values and "
                    f"mask of {given}; expected {dtype}, torch.float32, torch.bool"
                )

    def _check_ends(self) -> None:
        dtypes = {"labels": torch.int64, "until": self.times[0].dtype}
        for name, dtype in dtypes.items():
            part: Tensor | None = getattr(self, name)
            if part is not None and (part.shape != (len(self),) or part.dtype != dtype):
                raise DataError(
                    f"{self.name}: {name} of {part.dtype} and shape {tuple(part.shape)}; expected "
                    f"{dtype} of shape ({len(self)},)"
                )
        if self.until is None:
            return
        for index, (time, end) in enumerate(zip(self.times, self.until.tolist(), strict=True)):
            if len(time) and float(time[-1]) > end:
                raise DataError(
                    f"{self.name}: series {index} ({self.subjects[index]}) goes to {time[-1]:g}, "
                    f"but was watched until {end:g}; expected no row beyond"
                )

    def _check_contents(self) -> None:
        # On all series at once: one at a time takes seconds for thousands of them.
        times, lengths = torch.cat(self.times), self.lengths
        series = torch.repeat_interleave(torch.arange(len(self)), lengths)
        found = {
            "a time that is not finite": ~times.isfinite(),
            "an observed value that is not finite": (
                torch.cat(self.mask) & ~torch.cat(self.values).isfinite()
            ).any(1),
            "times that fall, so its rows are not sorted": torch.cat(
                [
                    torch.zeros(min(1, len(times)), dtype=torch.bool),
                    (times.diff() < 0) & (series.diff() == 0),
                ]
            ),
        }
        for fault, rows in found.items():
            if bool(rows.any()):
                row = int(rows.nonzero()[0])
                index = int(series[row])
                place = row - int(lengths[:index].sum())
                raise DataError(
                    f"{self.name}: series {index} ({self.subjects[index]}) has {fault}, in row "
                    f"{place} at time {times[row]:g}"
                )
