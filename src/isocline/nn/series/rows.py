"""A batch as recurrent models go through it: row after row, with the time between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ...irregular import IrregularBatch

__all__ = ["Rows", "merge_times"]


@dataclass(frozen=True)
class Rows:
    """Rows in the order in which they are read, each series its own from the front.

    Attributes:
        values, mask: ``(batch, rows, features)``.
        present: bool, ``(batch, rows)``.
        gaps: ``(batch, rows)``: how much time passes before the row, since the one read before.
        last_gap: ``(batch,)``: how much time passes after the last row.
    """

    values: Tensor
    mask: Tensor
    present: Tensor
    gaps: Tensor
    last_gap: Tensor

    @classmethod
    def forward(cls, batch: IrregularBatch, end: Tensor | float | None = None) -> Self:
        """From the first row to the last, and on to `end`, a number or ``(batch,)``."""
        # Differences first: a time may be a number too long for the type of the values.
        times, dtype = batch.times, batch.values.dtype
        gaps = torch.cat([torch.zeros_like(times[:, :1]), times.diff(dim=1)], 1)
        gaps = gaps.masked_fill(~batch.present, 0.0)
        at = _at(times, batch.lengths - 1)
        last = (torch.zeros_like(at) if end is None else end - at).where(batch.lengths > 0, 0.0)
        return cls(batch.values, batch.mask, batch.present, gaps.to(dtype), last.to(dtype))

    @classmethod
    def backward(cls, batch: IrregularBatch, start: float) -> Self:
        """From the last row to the first, and on to the time `start` before it.

        The times between are positive, but for the last one where `start` lies after the first row.
        """
        present, lengths = batch.present, batch.lengths.unsqueeze(1)
        order = (lengths - 1 - torch.arange(batch.rows, device=lengths.device)).clamp(min=0)
        wide = order.unsqueeze(-1).expand(-1, -1, batch.features)
        times, dtype = batch.times.gather(1, order), batch.values.dtype
        gaps = torch.cat([torch.zeros_like(times[:, :1]), -times.diff(dim=1)], 1)
        last = (_at(times, batch.lengths - 1) - start).where(batch.lengths > 0, 0.0)
        padding = ~present
        return cls(
            batch.values.gather(1, wide).masked_fill(padding.unsqueeze(-1), 0.0),
            batch.mask.gather(1, wide).masked_fill(padding.unsqueeze(-1), False),
            present,
            gaps.masked_fill(padding, 0.0).to(dtype),
            last.to(dtype),
        )

    @property
    def lengths(self) -> Tensor:
        """``(batch,)``."""
        return self.present.sum(1)

    @property
    def seen(self) -> Tensor:
        """bool, ``(batch, rows)``: rows with something observed, or with nothing to observe."""
        if not self.values.shape[2]:
            return self.present
        return self.mask.any(-1)


def merge_times(batch: IrregularBatch, times: Tensor) -> tuple[IrregularBatch, Tensor]:
    """Rows without observations, put in at `times` where there are no rows yet.

    Args:
        batch: The observations.
        times: ``(batch, times)``, rising or not.

    Returns:
        The batch with the rows, and the index ``(batch, times)`` of the row of each time: the
        first, if several have this time.
    """
    times = times.to(batch.times.dtype)
    beyond = torch.inf
    own = batch.times.masked_fill(~batch.present, beyond)
    everything = torch.cat([own, times], 1)
    # Observations come first among equals, and of equal new times the first.
    order = everything.sort(dim=1, stable=True).indices
    risen = everything.gather(1, order)
    is_row = order < batch.rows
    first = torch.ones_like(is_row)
    first[:, 1:] = risen[:, 1:] != risen[:, :-1]
    keep = (is_row & risen.isfinite()) | (~is_row & first)
    wide = order.clamp(max=max(batch.rows - 1, 0)).unsqueeze(-1).expand(-1, -1, batch.features)
    blank = ~(is_row & risen.isfinite()).unsqueeze(-1)
    if batch.rows:
        values, mask = batch.values.gather(1, wide), batch.mask.gather(1, wide)
    else:
        values = batch.values.new_zeros(*order.shape, batch.features)
        mask = torch.zeros_like(values, dtype=torch.bool)
    merged = IrregularBatch(
        risen.masked_fill(risen == beyond, 0.0),
        values.masked_fill(blank, 0.0),
        mask.masked_fill(blank, False),
        # What is not finite is the old padding, which stands last.
        risen.isfinite().sum(1),
    ).select(keep)
    valid = merged.times.masked_fill(~merged.present, beyond)
    index = torch.searchsorted(valid.contiguous(), times.contiguous())
    return merged, index


def _at(times: Tensor, index: Tensor) -> Tensor:
    if not times.shape[1]:
        return times.new_zeros(len(times))
    return times.gather(1, index.clamp(min=0).unsqueeze(1)).squeeze(1)
