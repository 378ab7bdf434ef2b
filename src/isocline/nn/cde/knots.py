"""What a path has to pass through: the channels of a batch, and the knots of each channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...irregular import IrregularBatch

__all__ = ["Knots", "Rows", "rows_of"]


@dataclass(frozen=True)
class Rows:
    """Channels of a batch on the rows of each series, whose times now differ.

    Attributes:
        times: ``(batch, rows)``; beyond a series' length its last time, 0 in an empty series.
        values: ``(batch, rows, channels)``; 0 where not observed.
        mask: bool, ``(batch, rows, channels)``.
        lengths: int64, ``(batch,)``.
    """

    times: Tensor
    values: Tensor
    mask: Tensor
    lengths: Tensor


def rows_of(batch: IrregularBatch, time: bool, intensity: bool) -> Rows:
    """The channels of a path: time, features, and how often each was observed so far.

    Rows at equal times become one, in which a feature has the mean of its values.

    Args:
        batch: The series.
        time: Whether the time is channel 0.
        intensity: Whether the running counts of each feature's observations are the last channels
            (Kidger et al. 2020, "observational intensity").
    """
    # Shifts and differences between knots must not lose what the finer of the two types knows.
    dtype = torch.promote_types(batch.times.dtype, batch.values.dtype)
    times, values = batch.times.to(dtype), batch.values.to(dtype)
    present = batch.present
    # The number of a row among the distinct times of its series.
    new = torch.ones_like(present)
    new[:, 1:] = times.detach().diff(dim=1) > 0
    place = ((new & present).cumsum(1) - 1).clamp(min=0)
    lengths = (new & present).sum(1)

    seen = batch.mask.to(dtype)
    wide = place.unsqueeze(-1).expand_as(values)
    counts = torch.zeros_like(seen).scatter_add(1, wide, seen)
    sums = torch.zeros_like(values).scatter_add(1, wide, values.where(batch.mask, 0.0))
    values, mask = sums / counts.clamp(min=1), counts > 0

    row = torch.arange(times.shape[1], device=times.device)
    # Each distinct time stands at the row where it first occurs; there is one more slot, for rest.
    first = torch.full_like(place, times.shape[1])
    first = first.scatter_reduce(1, place, row.expand_as(place), "amin")
    held = torch.minimum(row.expand_as(place), (lengths - 1).clamp(min=0).unsqueeze(1))
    times = times.gather(1, first.gather(1, held)).where(lengths.unsqueeze(1) > 0, 0.0)

    valid = (row < lengths.unsqueeze(1)).unsqueeze(-1)
    channels, masks = [values], [mask]
    if time:
        channels.insert(0, times.unsqueeze(-1) * valid)
        masks.insert(0, valid)
    if intensity:
        channels.append(counts.cumsum(1) * valid)
        masks.append(valid.expand_as(mask))
    return Rows(times, torch.cat(channels, 2), torch.cat(masks, 2), lengths)


@dataclass(frozen=True)
class Knots:
    """For each channel its observed values alone, closed up; all ``(batch, rows, channels)``.

    Attributes:
        times, values: Of the knots; whatever beyond the last.
        between: bool, whether there is a knot here and one after it.
        gap: Time to the next knot, 1 where there is none.
        slope: Of the chord to the next knot, 0 where there is none.
    """

    times: Tensor
    values: Tensor
    between: Tensor
    gap: Tensor
    slope: Tensor

    @classmethod
    def of(cls, rows: Rows) -> Knots:
        """The knots of each channel."""
        # A stable sort brings what was observed to the front, and leaves its order.
        order = (~rows.mask).to(torch.uint8).sort(dim=1, stable=True).indices
        times = rows.times.unsqueeze(-1).expand_as(rows.values).gather(1, order)
        values = rows.values.gather(1, order)
        row = torch.arange(times.shape[1], device=times.device).view(1, -1, 1)
        between = row < rows.mask.sum(1, keepdim=True) - 1
        gap = (later(times) - times).where(between, 1.0)
        slope = ((later(values) - values) / gap).where(between, 0.0)
        return cls(times, values, between, gap, slope)


def later(x: Tensor, by: int = 1) -> Tensor:
    """Each row's successor, `by` rows on; 0 where there is none."""
    return torch.cat([x[:, by:], torch.zeros_like(x[:, :by])], dim=1)


def earlier(x: Tensor, by: int = 1) -> Tensor:
    """Each row's predecessor, `by` rows back; 0 where there is none."""
    return torch.cat([torch.zeros_like(x[:, :by]), x[:, : x.shape[1] - by]], dim=1)
