"""Rows in both directions, and times put in between, against loops over single series."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from isocline.irregular import IrregularBatch, union_of
from isocline.nn.series import Rows
from isocline.nn.series.rows import merge_times

from .series_cases import DTYPE, padded_further, ragged

# Few different times, so that many are equal.
moments = st.integers(-3, 4).map(lambda k: k / 4)


@st.composite
def batches(draw: st.DrawFn) -> IrregularBatch:
    """Times with ties, empty series, series of any length, or none of any length; more padding."""
    series = draw(st.lists(st.lists(moments, max_size=5).map(sorted), min_size=1, max_size=4))
    features = draw(st.integers(0, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))

    def uniform(rows: int) -> Tensor:
        return torch.rand(rows, features, generator=generator, dtype=DTYPE)

    made = IrregularBatch.collate(
        [torch.tensor(times, dtype=DTYPE) for times in series],
        [uniform(len(times)) + 1 for times in series],
        [uniform(len(times)) < 0.6 for times in series],
    )
    return padded_further(made, draw(st.integers(0, 2)))


Row = tuple[float, tuple[float, ...], tuple[bool, ...]]


def rows_of(batch: IrregularBatch, series: int) -> list[Row]:
    return [
        (
            float(batch.times[series, row]),
            tuple(batch.values[series, row].tolist()),
            tuple(batch.mask[series, row].tolist()),
        )
        for row in range(int(batch.lengths[series]))
    ]


def merged_by_hand(rows: list[Row], times: list[float], features: int) -> list[Row]:
    blank = ((0.0,) * features, (False,) * features)
    have = {row[0] for row in rows}
    return sorted([*rows, *((t, *blank) for t in set(times) - have)], key=lambda row: row[0])


@given(batches(), st.data())
def test_times_are_put_in(batch: IrregularBatch, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, 4))
    each = st.lists(moments, min_size=number, max_size=number)
    asked = [data.draw(each) for _ in range(len(batch))]
    times = torch.tensor(asked, dtype=DTYPE).view(len(batch), number)
    merged, index = merge_times(batch, times)
    assert index.shape == times.shape
    for series, wanted in enumerate(asked):
        expected = merged_by_hand(rows_of(batch, series), wanted, batch.features)
        assert rows_of(merged, series) == expected
        first = [row[0] for row in expected]
        assert index[series].tolist() == [first.index(t) for t in wanted]


@given(batches(), moments, moments)
def test_rows_forwards_and_backwards(batch: IrregularBatch, start: float, end: float) -> None:
    ways = {
        "forward": (Rows.forward(batch, end), 1, end),
        "backward": (Rows.backward(batch, start), -1, start),
    }
    for rows, sign, goal in ways.values():
        assert torch.equal(rows.present, batch.present)
        assert torch.equal(rows.lengths, batch.lengths)
        for series in range(len(batch)):
            expected = rows_of(batch, series)[::sign]
            times = [row[0] for row in expected]
            before = [0.0, *(sign * (b - a) for a, b in itertools.pairwise(times))]
            padding = batch.rows - len(times)
            gaps = before[: len(times)] + [0.0] * padding
            assert rows.gaps[series].tolist() == gaps
            assert float(rows.last_gap[series]) == (sign * (goal - times[-1]) if times else 0.0)
            nothing = [[0.0] * batch.features] * padding
            assert rows.values[series].tolist() == [list(row[1]) for row in expected] + nothing
            seen = [list(row[2]) for row in expected] + [[False] * batch.features] * padding
            assert rows.mask[series].tolist() == seen
            any_seen = [any(row) or not batch.features for row in seen[: len(times)]]
            assert rows.seen[series, : len(times)].tolist() == any_seen
    assert not bool(Rows.forward(batch).last_gap.any())


def test_an_end_for_each_series() -> None:
    batch = ragged((3, 0, 2))
    ends = torch.tensor([2.0, 3.0, 4.0], dtype=DTYPE)
    gaps = Rows.forward(batch, ends).last_gap
    expected = [2.0 - float(batch.times[0, 2]), 0.0, 4.0 - float(batch.times[2, 1])]
    assert gaps.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("start", [1.7e9, -4e8])
def test_times_too_long_for_the_type_of_the_values(start: float) -> None:
    """Seconds of a calendar, in float64 beside float32 values: gaps of 1 came out as 0."""
    plain = IrregularBatch.collate(
        [start + torch.tensor([0.0, 1.0, 5.0], dtype=DTYPE)], [torch.ones(3, 1, dtype=DTYPE)]
    )
    batch = dataclasses.replace(plain, values=plain.values.float())
    forward, backward = Rows.forward(batch, start + 7.0), Rows.backward(batch, start - 2.0)
    assert forward.gaps.tolist() == [[0.0, 1.0, 4.0]]
    assert backward.gaps.tolist() == [[0.0, 4.0, 1.0]]
    assert forward.last_gap.tolist() == backward.last_gap.tolist() == [2.0]
    assert {rows.gaps.dtype for rows in (forward, backward)} == {torch.float32}


@given(batches(), st.booleans())
def test_the_union_of_times(batch: IrregularBatch, all_valid: bool) -> None:
    """Of those that count: what stands at the others is no time to solve to."""
    valid = torch.ones_like(batch.present) if all_valid else batch.present
    times = batch.times.where(valid, 9.0)
    union = union_of(times, None if all_valid else valid)
    assert bool((union.times.diff() > 0).all())
    assert union.index.shape == times.shape
    found = union.times[union.index]
    assert torch.equal(found[valid], times[valid])
    if bool(valid.any()) and not union.shared:
        assert set(union.times.tolist()) == set(times[valid].tolist())
    scale = torch.tensor([1.0, 2.0], dtype=DTYPE)
    path = union.times[:, None, None] * scale
    gathered = union.gather(path.expand(-1, len(batch), -1))
    assert torch.equal(gathered, found.unsqueeze(-1) * scale)


def test_shared_times_are_seen_to_be_shared() -> None:
    grid = torch.tensor([0.0, 0.5, 2.0])
    assert union_of(grid.expand(3, -1)).shared
    assert not union_of(grid.flip(0).expand(3, -1)).shared
    assert not union_of(torch.tensor([[0.0, 0.0, 1.0]])).shared
    times = grid.requires_grad_().expand(2, -1)
    assert not union_of(times).times.requires_grad
