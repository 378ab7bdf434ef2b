"""Time series with times of their own, side by side in one batch.

The type that the models of `isocline.nn` take and that `isocline.data` makes. It needs torch alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from .errors import InputError, InputTypeError

__all__ = ["IrregularBatch", "Union", "union_of"]


@dataclass(frozen=True)
class Union:
    """All times of a batch in one rising grid, and where each series finds its own.

    Attributes:
        times: ``(grid,)``, rising, each time once.
        index: int64, shaped as the times were: ``times[index]`` gives them back.
        shared: Whether each row of the index is simply the grid, from its first time to its last.
    """

    times: Tensor
    index: Tensor
    shared: bool = False

    def gather(self, path: Tensor) -> Tensor:
        """What each series needs of a path on the grid.

        Args:
            path: ``(grid, batch, ...)``, as a solve returns it.

        Returns:
            ``(batch, rows, ...)``, for an index of shape ``(batch, rows)``.
        """
        if self.shared:
            return path.transpose(0, 1)
        batch = torch.arange(self.index.shape[0], device=self.index.device)
        return path[self.index, batch.unsqueeze(1)]


def union_of(times: Tensor, valid: Tensor | None = None) -> Union:
    """The union of times, which carries no gradient.

    Args:
        times: ``(batch, rows)``.
        valid: bool, ``(batch, rows)``: which of them count; the others find some time of the grid.
    """
    times = times.detach()
    if times.numel() and bool((times == times[:1]).all()) and bool((times[0].diff() > 0).all()):
        rows = torch.arange(times.shape[1], device=times.device)
        return Union(times[0], rows.expand_as(times), shared=True)
    if valid is not None and times.numel():
        times = times.where(valid, times[valid].min() if bool(valid.any()) else times.min())
    grid, index = torch.unique(times, return_inverse=True)
    return Union(grid, index)


@dataclass(frozen=True)
class IrregularBatch:
    """Series of observations, each at its own times, padded to the length of the longest.

    A row is what was observed of one series at one time: all its features or some of them. The rows
    of a series rise in time; equal times are allowed. Rows beyond a series' length are padding: no
    feature observed, at the time of its last row.

    Attributes:
        times: Floating point, ``(batch, rows)``, finite.
        values: Floating point, ``(batch, rows, features)``; 0 where nothing was observed, whatever
            was given there. There may be no features at all: a series of events has nothing but
            times.
        mask: bool, ``(batch, rows, features)``: what was observed.
        lengths: int64, ``(batch,)``: how many rows are no padding. A series may have none.
        until: ``(batch,)``, the end of the window over which each series was watched, which the
            likelihood of event times needs; ``None`` where it is not known.

    Raises:
        InputError: If shapes do not fit, times fall, or an observed value is not finite.
        InputTypeError: If a tensor is of the wrong type.
    """

    times: Tensor
    values: Tensor
    mask: Tensor
    lengths: Tensor
    until: Tensor | None = None

    def __post_init__(self) -> None:
        self._check_types()
        self._check_shapes()
        self._check_contents()
        # Models read the values as they are; NaN is a common sign for what is missing.
        if bool((~self.mask & (self.values != 0)).any()):
            object.__setattr__(self, "values", self.values.where(self.mask, 0.0))

    @classmethod
    def collate(
        cls,
        times: Sequence[Tensor],
        values: Sequence[Tensor] | None = None,
        mask: Sequence[Tensor] | None = None,
        until: Tensor | None = None,
    ) -> IrregularBatch:
        """Put series of different lengths into one batch.

        Args:
            times: For each series ``(rows,)``, rising.
            values: For each series ``(rows, features)``; ``None`` for events, which have none.
            mask: For each series bool, ``(rows, features)``. ``None``: all that is not NaN was
                observed.
            until: ``(batch,)``, see the class.

        Raises:
            InputError: If there are no series, or one does not fit.
        """
        if not times:
            raise InputError("times", "no series", "at least one")
        if values is None:
            values = [time.new_zeros(*time.shape, 0) for time in times]
        if mask is None:
            mask = [~value.isnan() for value in values]
        if not len(times) == len(values) == len(mask):
            given = f"{len(times)} series, {len(values)} values, {len(mask)} masks"
            raise InputError("times, values, mask", given, "as many of each")
        for row, (time, value, seen) in enumerate(zip(times, values, mask, strict=True)):
            if time.ndim != 1 or value.ndim != 2 or value.shape != seen.shape:
                given = f"{tuple(time.shape)}, {tuple(value.shape)}, {tuple(seen.shape)}"
                expected = "(rows,), (rows, features), (rows, features)"
                raise InputError(f"times, values, mask of series {row}", given, expected)
            if seen.dtype != torch.bool:
                raise InputTypeError(f"mask of series {row}", f"{seen.dtype}", "bool")
            if len(time) != len(value) or value.shape[1] != values[0].shape[1]:
                given = f"{len(time)} times, values {tuple(value.shape)}"
                expected = f"as many rows, and {values[0].shape[1]} features"
                raise InputError(f"series {row}", given, expected)
        lengths = torch.tensor([len(time) for time in times], device=times[0].device)
        longest = int(lengths.max())
        return cls(
            torch.stack([_padded_times(time, longest) for time in times]),
            torch.stack(
                [
                    _padded(value.where(seen, 0.0), longest)
                    for value, seen in zip(values, mask, strict=True)
                ]
            ),
            torch.stack([_padded(seen, longest) for seen in mask]),
            lengths,
            until,
        )

    @classmethod
    def regular(cls, times: Tensor, values: Tensor, until: Tensor | None = None) -> IrregularBatch:
        """Series that share their times.

        Args:
            times: ``(rows,)``, rising.
            values: ``(batch, rows, features)``; NaN where nothing was observed.
            until: ``(batch,)``, see the class.
        """
        if times.ndim != 1 or values.ndim != 3 or values.shape[1] != len(times):
            given = f"{tuple(times.shape)} and {tuple(values.shape)}"
            raise InputError("times, values", given, "(rows,) and (batch, rows, features)")
        mask = ~values.isnan()
        lengths = torch.full((len(values),), len(times), device=values.device)
        together = times.expand(len(values), -1).contiguous()
        return cls(together, values.where(mask, 0.0), mask, lengths, until)

    def __len__(self) -> int:
        return self.times.shape[0]

    @property
    def rows(self) -> int:
        """Rows of the longest series."""
        return self.times.shape[1]

    @property
    def features(self) -> int:
        """Features of a row."""
        return self.values.shape[2]

    @property
    def present(self) -> Tensor:
        """bool, ``(batch, rows)``: which rows are no padding."""
        row = torch.arange(self.rows, device=self.lengths.device)
        return row < self.lengths.unsqueeze(1)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """The batch on another device, or with times and values of another floating-point type."""
        return dataclasses.replace(
            self,
            times=self.times.to(device=device, dtype=dtype),
            values=self.values.to(device=device, dtype=dtype),
            mask=self.mask.to(device=device),
            lengths=self.lengths.to(device=device),
            until=None if self.until is None else self.until.to(device=device, dtype=dtype),
        )

    def __getitem__(self, series: Tensor | slice | Sequence[int]) -> IrregularBatch:
        """Some of the series: a slice, indices, or a bool for each; no longer than needed."""
        if not isinstance(series, slice):
            series = torch.as_tensor(series, device=self.lengths.device)
            # An empty list makes a tensor of numbers that are no indices.
            series = series if series.numel() else series.long()
        lengths = self.lengths[series]
        if lengths.ndim != 1 or len(lengths) == 0:
            raise InputError("series", repr(series), "at least one series, as a slice or indices")
        rows = slice(int(lengths.max()))
        return IrregularBatch(
            self.times[series][:, rows],
            self.values[series][:, rows],
            self.mask[series][:, rows],
            lengths,
            None if self.until is None else self.until[series],
        )

    def select(self, keep: Tensor) -> IrregularBatch:
        """The rows that are marked in `keep`, closed up.

        Args:
            keep: bool, ``(batch, rows)``; padding is never kept.
        """
        if keep.shape != self.times.shape or keep.dtype != torch.bool:
            given = f"{keep.dtype} of shape {tuple(keep.shape)}"
            raise InputError("keep", given, f"bool of shape {tuple(self.times.shape)}")
        keep = keep & self.present
        lengths = keep.sum(1)
        # A stable sort brings the kept rows to the front and leaves their order.
        order = (~keep).to(torch.uint8).sort(dim=1, stable=True).indices[:, : int(lengths.max())]
        wide = order.unsqueeze(-1).expand(-1, -1, self.features)
        padding = torch.arange(order.shape[1], device=order.device) >= lengths.unsqueeze(1)
        times = _hold_last(self.times.gather(1, order), lengths)
        return IrregularBatch(
            times,
            self.values.gather(1, wide).masked_fill(padding.unsqueeze(-1), 0.0),
            self.mask.gather(1, wide).masked_fill(padding.unsqueeze(-1), False),
            lengths,
            self.until,
        )

    def between(self, start: Tensor | float, end: Tensor | float) -> IrregularBatch:
        """The rows with ``start <= time <= end``, two numbers or ``(batch,)``."""
        # In the type of the times: a number is to be rounded as they were, no more and no less.
        times = self.times
        start, end = (
            torch.as_tensor(time, dtype=times.dtype, device=times.device).reshape(-1, 1)
            for time in (start, end)
        )
        return self.select((times >= start) & (times <= end))

    def hidden(self, mask: Tensor) -> IrregularBatch:
        """The batch without the values that are not in `mask`; rows stay, though they be empty.

        Args:
            mask: bool, ``(batch, rows, features)``.
        """
        mask = self.mask & mask
        return dataclasses.replace(self, values=self.values.where(mask, 0.0), mask=mask)

    def shifted(self, by: Tensor | float) -> IrregularBatch:
        """The batch with `by`, a number or ``(batch,)``, added to all its times."""
        by = torch.as_tensor(by, dtype=self.times.dtype, device=self.times.device).reshape(-1, 1)
        until = None if self.until is None else self.until + by.squeeze(1)
        return dataclasses.replace(self, times=self.times + by, until=until)

    def _check_types(self) -> None:
        _check_type("times", self.times)
        _check_type("values", self.values)
        _check_type("mask", self.mask, torch.bool)
        _check_type("lengths", self.lengths, torch.int64)
        if self.until is not None:
            _check_type("until", self.until)

    def _check_shapes(self) -> None:
        if self.times.ndim != 2:
            raise InputError("times", f"shape {tuple(self.times.shape)}", "(batch, rows)")
        batch, rows = self.times.shape
        if self.values.ndim != 3 or self.values.shape[:2] != (batch, rows):
            expected = f"({batch}, {rows}, features), as times are {tuple(self.times.shape)}"
            raise InputError("values", f"shape {tuple(self.values.shape)}", expected)
        if self.mask.shape != self.values.shape:
            expected = f"{tuple(self.values.shape)}, as the values"
            raise InputError("mask", f"shape {tuple(self.mask.shape)}", expected)
        for name, tensor in (("lengths", self.lengths), ("until", self.until)):
            if tensor is not None and tensor.shape != (batch,):
                raise InputError(name, f"shape {tuple(tensor.shape)}", f"({batch},)")

    def _check_contents(self) -> None:
        if len(self) and not bool(((self.lengths >= 0) & (self.lengths <= self.rows)).all()):
            given = f"between {int(self.lengths.min())} and {int(self.lengths.max())}"
            raise InputError("lengths", given, f"between 0 and {self.rows}")
        if not bool(self.times.isfinite().all()):
            raise InputError("times", "times that are not finite", "finite times, also in padding")
        present = self.present
        falls = (self.times.diff(dim=1) < 0) & present[:, 1:]
        if bool(falls.any()):
            series, row = falls.nonzero()[0].tolist()
            given = f"{self.times[series, row + 1]:g} after {self.times[series, row]:g}"
            expected = "times that rise; sort the rows of each series"
            raise InputError(f"times[{series}]", given, expected)
        if bool((self.mask & ~present.unsqueeze(-1)).any()):
            raise InputError("mask", "observed values in the padding", "False beyond the lengths")
        wrong = self.mask & ~self.values.isfinite()
        if bool(wrong.any()):
            where = tuple(wrong.nonzero()[0].tolist())
            given = f"{self.values[where].item()} at index {where}"
            raise InputError("values", given, "finite values where the mask is True")
        if self.until is not None and not bool(self.until.isfinite().all()):
            raise InputError("until", "times that are not finite", "the end of each window")
        if self.until is not None and self.rows:
            last = _hold_last(self.times, self.lengths)[:, -1]
            early = (last > self.until) & (self.lengths > 0)
            if bool(early.any()):
                series = int(early.nonzero()[0])
                given = f"{self.until[series]:g}, before the last row at {last[series]:g}"
                raise InputError(f"until[{series}]", given, "a time that no row lies beyond")


def _check_type(name: str, given: Any, dtype: torch.dtype | None = None) -> None:
    """Raise unless it is a tensor of `dtype`, of any floating-point type where there is none."""
    if isinstance(given, Tensor):
        if given.dtype == dtype or (dtype is None and given.is_floating_point()):
            return
        kind = f"a tensor of {given.dtype}"
    else:
        kind = type(given).__name__
    expected = "a floating-point type" if dtype is None else str(dtype)
    raise InputTypeError(name, kind, f"a tensor of {expected}")


def _padded(rows: Tensor, longest: int) -> Tensor:
    """Rows with zeros, or False, behind them."""
    padding = rows.new_zeros(longest - len(rows), *rows.shape[1:])
    return torch.cat([rows, padding])


def _padded_times(times: Tensor, longest: int) -> Tensor:
    """Times with the last of them behind: the padding adds nothing to the union of times."""
    last = times[-1:] if len(times) else times.new_zeros(1)
    return torch.cat([times, last.expand(longest - len(times))])


def _hold_last(times: Tensor, lengths: Tensor) -> Tensor:
    """The same for a batch, in which the padding may hold any time."""
    if not times.shape[1]:
        return times
    row = torch.arange(times.shape[1], device=times.device)
    last = (lengths - 1).clamp(min=0).unsqueeze(1)
    held = times.gather(1, torch.minimum(row.expand_as(times), last))
    return held.where(lengths.unsqueeze(1) > 0, 0.0)
