"""IrregularBatch: what it does to series, against lists; what it refuses."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import isocline.data
import isocline.nn
from isocline.errors import InputError, InputTypeError
from isocline.irregular import IrregularBatch

NAN = math.nan
moments = st.integers(-8, 8).map(lambda k: k / 8)

Row = tuple[float, tuple[float | None, ...]]
Lists = list[list[Row]]


@st.composite
def lists(draw: st.DrawFn, features: int | None = None) -> Lists:
    """Series as lists of rows: time, and values or None."""
    width = draw(st.integers(0, 3)) if features is None else features
    value = st.none() | st.floats(-4, 4, width=32).filter(bool)
    row = st.tuples(moments, st.tuples(*[value] * width))
    series = st.lists(row, max_size=5).map(lambda rows: sorted(rows, key=lambda r: r[0]))
    made: Lists = draw(st.lists(series, min_size=1, max_size=4))
    return [[(0.0, (None,) * width)] * (not any(made)) + one for one in made]


def features_of(series: Lists) -> int:
    return next(len(rows[0][1]) for rows in series if rows)


def collated(series: Lists, until: Tensor | None = None) -> IrregularBatch:
    width = features_of(series)
    return IrregularBatch.collate(
        [torch.tensor([t for t, _ in rows]) for rows in series],
        [
            torch.tensor(
                [[NAN if v is None else v for v in row] for _, row in rows], dtype=torch.float32
            ).view(len(rows), width)
            for rows in series
        ],
        until=until,
    )


def as_lists(batch: IrregularBatch) -> Lists:
    """And sees to what holds for every batch."""
    assert not bool(batch.values[~batch.mask].any())
    assert not bool(batch.mask[~batch.present].any())
    if len(batch) and batch.rows:
        assert int(batch.lengths.max()) <= batch.rows
    made: Lists = []
    for times, values, mask, length in zip(
        batch.times, batch.values, batch.mask, batch.lengths.tolist(), strict=True
    ):
        if length:
            assert bool((times[length:] == times[length - 1]).all()), "padding holds the last time"
        made.append(
            [
                (
                    float(times[row]),
                    tuple(
                        float(v) if seen else None
                        for v, seen in zip(values[row], mask[row].tolist(), strict=True)
                    ),
                )
                for row in range(length)
            ]
        )
    return made


# --- what it does --------------------------------------------------------------------------------


@given(lists())
def test_there_and_back(series: Lists) -> None:
    batch = collated(series)
    assert as_lists(batch) == series
    assert len(batch) == len(series)
    assert batch.rows == max(len(rows) for rows in series)
    assert batch.features == features_of(series)
    assert batch.present.sum(1).tolist() == [len(rows) for rows in series]
    assert batch.until is None


@given(lists(), st.data())
def test_some_of_the_series(series: Lists, data: st.DataObject) -> None:
    until = torch.arange(len(series)) + 1.0
    batch = collated(series, until)
    count = len(series)
    index = data.draw(st.lists(st.integers(-count, count - 1), min_size=1, max_size=5))
    chosen = list(data.draw(st.tuples(*[st.booleans()] * count)))
    ways: list[tuple[Any, list[int]]] = [
        (index, index),
        (torch.tensor(index), index),
        (slice(1, None), list(range(1, count))),
        (slice(None, None, 2), list(range(0, count, 2))),
        (torch.tensor(chosen), [i for i in range(count) if chosen[i]]),
        (chosen, [i for i in range(count) if chosen[i]]),
    ]
    for way, expected in ways:
        if not expected:
            with pytest.raises(InputError, match=r"^`series`"):
                batch[way]
            continue
        some = batch[way]
        assert as_lists(some) == [series[i] for i in expected]
        assert some.rows == max(len(series[i]) for i in expected)
        assert some.until is not None
        assert some.until.tolist() == [float(until[i]) for i in expected]


@given(lists(), st.data())
def test_rows_that_are_kept_close_up(series: Lists, data: st.DataObject) -> None:
    batch = collated(series)
    flags = [data.draw(st.tuples(*[st.booleans()] * batch.rows)) for _ in series]
    some = batch.select(torch.tensor(flags))
    expected = [
        [row for row, keep in zip(rows, flag, strict=False) if keep]
        for rows, flag in zip(series, flags, strict=True)
    ]
    assert as_lists(some) == expected
    assert some.rows == max(len(rows) for rows in expected)


@given(lists(), moments, moments, st.booleans())
def test_rows_between_two_times(series: Lists, start: float, end: float, each: bool) -> None:
    batch = collated(series)
    starts = [start - k / 8 for k in range(len(series))] if each else [start] * len(series)
    given_start = torch.tensor(starts) if each else start
    expected = [
        [row for row in rows if first <= row[0] <= end]
        for rows, first in zip(series, starts, strict=True)
    ]
    assert as_lists(batch.between(given_start, end)) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_belong_to_what_lies_between(dtype: torch.dtype) -> None:
    """0.1 was made a float32, beyond which the float64 time 0.1 does not lie."""
    times = torch.tensor([0.1, 0.3, 0.7], dtype=dtype)
    batch = IrregularBatch.collate([times])
    assert batch.between(0.1, 0.7).lengths.tolist() == [3]
    exact = torch.tensor([0.1], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
    assert batch.between(*exact).lengths.tolist() == [3]


@given(lists(), st.data())
def test_values_that_are_hidden(series: Lists, data: st.DataObject) -> None:
    batch = collated(series)
    seed = data.draw(st.integers(0, 99))
    keep = torch.rand(batch.mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    expected = [
        [
            (t, tuple(v if keep[i, r, f] else None for f, v in enumerate(row)))
            for r, (t, row) in enumerate(rows)
        ]
        for i, rows in enumerate(series)
    ]
    assert as_lists(batch.hidden(keep)) == expected


@given(lists(), st.booleans())
def test_times_are_shifted(series: Lists, each: bool) -> None:
    until = torch.full((len(series),), 1.5)
    by = [0.25 * k for k in range(len(series))] if each else [-0.5] * len(series)
    moved = collated(series, until).shifted(torch.tensor(by) if each else -0.5)
    expected = [[(t + d, row) for t, row in rows] for rows, d in zip(series, by, strict=True)]
    assert as_lists(moved) == expected
    assert moved.until is not None
    assert moved.until.tolist() == [1.5 + d for d in by]


def some() -> IrregularBatch:
    series: Lists = [[(0.0, (1.0, None)), (0.5, (None, 2.0))], [], [(0.25, (3.0, 4.0))]]
    return collated(series, torch.ones(3))


def test_series_that_share_their_times() -> None:
    times, values = torch.tensor([0.0, 1.0]), torch.tensor([[[1.0], [NAN]], [[2.0], [3.0]]])
    batch = IrregularBatch.regular(times, values, torch.tensor([1.0, 2.0]))
    assert as_lists(batch) == [[(0.0, (1.0,)), (1.0, (None,))], [(0.0, (2.0,)), (1.0, (3.0,))]]
    assert batch.lengths.tolist() == [2, 2]


def test_events_have_times_alone() -> None:
    batch = IrregularBatch.collate([torch.tensor([0.1, 0.2]), torch.zeros(0)])
    assert batch.values.shape == batch.mask.shape == (2, 2, 0)
    assert batch[[1]].rows == 0
    assert batch[[1]].select(torch.zeros(1, 0).bool()).rows == 0
    assert batch[[1]].between(0.0, 1.0).lengths.tolist() == [0]


def test_types_and_copies() -> None:
    batch = some()
    double = batch.to(dtype=torch.float64)
    assert double.until is not None
    assert {t.dtype for t in (double.times, double.values, double.until)} == {torch.float64}
    assert (double.mask.dtype, double.lengths.dtype) == (torch.bool, torch.int64)
    assert as_lists(double) == as_lists(batch)
    assert as_lists(batch.to("cpu")) == as_lists(batch)
    for other in (copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert as_lists(other) == as_lists(batch)
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.times = batch.times + 1  # type: ignore[misc]
    assert isocline.nn.IrregularBatch is IrregularBatch is isocline.data.IrregularBatch


def test_gradients_flow_to_the_values() -> None:
    batch = some()
    values = batch.values.clone().requires_grad_()
    marked = dataclasses.replace(batch, values=values)
    kept = marked[[2, 0]].select(torch.ones(2, 2).bool()).hidden(torch.ones(2, 2, 2).bool())
    kept.shifted(1.0).values.sum().backward()
    assert torch.equal(values.grad, batch.mask.float())


@pytest.mark.parametrize("sign", [NAN, math.inf, 7.0])
def test_what_was_not_observed_is_0_whatever_was_given(sign: float) -> None:
    """NaN under a mask of False reached the models, which read the values as they are."""
    batch = some()
    values = batch.values.where(batch.mask, sign).requires_grad_()
    marked = dataclasses.replace(batch, values=values)
    assert torch.equal(marked.values, batch.values)
    marked.values.square().sum().backward()
    assert torch.equal(values.grad, 2 * batch.values)


# --- what it refuses -----------------------------------------------------------------------------

ZEROS = torch.zeros(2, 3, 1)
GOOD: dict[str, Any] = {
    "times": torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]),
    "values": ZEROS,
    "mask": ZEROS.bool(),
    "lengths": torch.tensor([2, 0]),
    "until": torch.tensor([1.0, 0.0]),
}
SEEN = torch.tensor([[[True], [False], [False]], [[False]] * 3])
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("times", {"times": torch.zeros(2, 3, dtype=torch.int64)}),
    ("times", {"times": [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]}),
    ("times", {"times": torch.zeros(6)}),
    ("times", {"times": torch.full((2, 3), NAN)}),
    ("times", {"times": torch.tensor([[0.0, 1.0, math.inf], [0.0, 0.0, 0.0]])}),
    ("times[0]", {"times": torch.tensor([[1.0, 0.5, 0.5], [0.0, 0.0, 0.0]])}),
    ("values", {"values": ZEROS.bool()}),
    ("values", {"values": torch.zeros(2, 3)}),
    ("values", {"values": torch.zeros(2, 2, 1)}),
    ("values", {"values": ZEROS + NAN, "mask": SEEN}),
    ("values", {"values": ZEROS + math.inf, "mask": SEEN}),
    ("mask", {"mask": ZEROS}),
    ("mask", {"mask": torch.zeros(2, 3, 2).bool()}),
    ("mask", {"mask": ~ZEROS.bool()}),
    ("lengths", {"lengths": torch.tensor([2.0, 0.0])}),
    ("lengths", {"lengths": torch.tensor([2, 0, 1])}),
    ("lengths", {"lengths": torch.tensor([4, 0])}),
    ("lengths", {"lengths": torch.tensor([2, -1])}),
    ("until", {"until": [1.0, 0.0]}),
    ("until", {"until": torch.tensor([1, 0])}),
    ("until", {"until": torch.tensor(1.0)}),
    ("until", {"until": torch.tensor([1.0, NAN])}),
    ("until", {"until": torch.tensor([1.0, math.inf])}),
    ("until[0]", {"until": torch.tensor([0.9, 0.0])}),
]


@pytest.mark.parametrize(
    ("name", "changed"), WRONG, ids=[f"{i}-{name}" for i, (name, _) in enumerate(WRONG)]
)
def test_wrong_tensors_are_named(name: str, changed: dict[str, Any]) -> None:
    IrregularBatch(**GOOD)
    with pytest.raises(InputError) as caught:
        IrregularBatch(**GOOD | changed)
    assert caught.value.argument == name
    wrong_type = any(word in str(caught.value) for word in ("a tensor of", "list"))
    assert isinstance(caught.value, InputTypeError) == wrong_type


ONE, TWO = torch.zeros(1), torch.zeros(1, 2)
CALLS: dict[str, tuple[str, Callable[[], Any]]] = {
    "nothing": ("times", lambda: IrregularBatch.collate([])),
    "numbers": ("series 0", lambda: IrregularBatch.collate([torch.tensor(1.0)])),
    "counts": ("times, values, mask", lambda: IrregularBatch.collate([ONE], [TWO, TWO])),
    "masks": ("times, values, mask", lambda: IrregularBatch.collate([ONE], [TWO], [])),
    "ranks": ("series 0", lambda: IrregularBatch.collate([ONE], [ONE])),
    "mask's shape": ("series 0", lambda: IrregularBatch.collate([ONE], [TWO], [ONE.bool()])),
    "mask's type": ("mask of series 0", lambda: IrregularBatch.collate([ONE], [TWO], [TWO])),
    "rows": ("series 0", lambda: IrregularBatch.collate([ONE], [torch.zeros(2, 2)])),
    "features": ("series 1", lambda: IrregularBatch.collate([ONE, ONE], [TWO, TWO[:, :1]])),
    "falling": ("times[0]", lambda: IrregularBatch.collate([torch.tensor([1.0, 0.0])])),
    "infinite": ("values", lambda: IrregularBatch.collate([ONE], [TWO + math.inf])),
    "regular times": ("times", lambda: IrregularBatch.regular(TWO, torch.zeros(1, 1, 2))),
    "regular values": ("values", lambda: IrregularBatch.regular(ONE, TWO)),
    "regular rows": ("values", lambda: IrregularBatch.regular(ONE, torch.zeros(1, 2, 2))),
    "one index": ("series", lambda: some()[0]),  # type: ignore[index]
    "no index": ("series", lambda: some()[[]]),
    "empty slice": ("series", lambda: some()[3:]),
    "keep's shape": ("keep", lambda: some().select(torch.ones(3, 1).bool())),
    "keep's type": ("keep", lambda: some().select(torch.ones(3, 2))),
}


@pytest.mark.parametrize("case", CALLS)
def test_wrong_calls_are_named(case: str) -> None:
    name, call = CALLS[case]
    with pytest.raises(InputError) as caught:
        call()
    assert name in caught.value.argument
