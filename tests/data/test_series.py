"""Sets of series: what they refuse, batches, parts, grids of times."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from isocline.data import DataError, Fault, Reading, SeriesSet
from isocline.errors import InputError


def _series(*lengths: int, width: int = 2, seed: int = 0, **others: object) -> SeriesSet:
    """Random series of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    times = [torch.rand(n, generator=generator).double().cumsum(0) for n in lengths]
    values = [torch.randn(n, width, generator=generator) for n in lengths]
    mask = [torch.rand(n, width, generator=generator) < 0.6 for n in lengths]
    subjects = tuple(f"s{index}" for index in range(len(lengths)))
    features = tuple("abcdefgh"[:width])
    return SeriesSet(tuple(times), tuple(values), tuple(mask), subjects, features, **others)  # type: ignore[arg-type]


def test_a_batch_holds_the_series_asked_for() -> None:
    series = _series(3, 0, 5, until=torch.tensor([4.0, 4.0, 6.0]).double())
    whole = series.batch()
    assert whole.values.shape == (3, 5, 2)
    assert whole.lengths.tolist() == series.lengths.tolist() == [3, 0, 5]
    some = series.batch([2, 0])
    assert some.lengths.tolist() == [5, 3]
    torch.testing.assert_close(some.times[1, :3], series.times[0])
    assert torch.equal(some.mask[0], series.mask[2])
    assert torch.equal(some.values[0], series.values[2].where(series.mask[2], 0.0))
    assert some.until is not None
    assert some.until.tolist() == [6, 4]
    assert series.batch(slice(0, 1)).rows == 3
    assert int(series.observed.sum()) == int(whole.mask.sum())


def test_a_subset_takes_everything_along() -> None:
    series = _series(3, 1, 5, labels=torch.tensor([0, 1, 2]), until=torch.full((3,), 9.0).double())
    assert series.labels is not None
    for chosen in ([2, 1], torch.tensor([2, 1]), torch.tensor([-1, -2])):
        part = series.subset(chosen)
        assert part.subjects == ("s2", "s1")
        assert part.labels is not None
        assert part.labels.tolist() == [2, 1]
        assert part.times[0] is series.times[2]
    assert series.subset(series.labels > 0).subjects == ("s1", "s2")


@pytest.mark.parametrize("indices", [[3], [], torch.tensor([True]), [[0]], "s0", [0.5]])
def test_indices_of_no_series_are_refused(indices: list[int]) -> None:
    series = _series(1, 1, 1)
    for use in (series.batch, series.subset):
        with pytest.raises(InputError, match="indices"):
            use(indices)


def test_only_some_features() -> None:
    series = _series(20, 20, width=3)
    part = series.only(["c", "a"])
    assert part.features == ("c", "a")
    for index, (seen, kept) in enumerate(zip(series.mask, part.mask, strict=True)):
        rows = seen[:, [2, 0]].any(1)
        assert 0 < int(rows.sum()) < 20
        assert torch.equal(kept, seen[rows][:, [2, 0]])
        assert torch.equal(part.times[index], series.times[index][rows])
    for wrong in (["d"], []):
        with pytest.raises(InputError, match="features"):
            series.only(wrong)


NAN, T = float("nan"), torch.tensor


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"times": (), "values": (), "mask": (), "subjects": ()}, "no series"),
        ({"subjects": ("s0",)}, "2 times, 2 values, 2 masks, 1 subjects"),
        ({"features": ("a", "a")}, "more than one feature is named 'a'"),
        ({"features": ("a",)}, r"series 0 \(s0\) has times.* shapes \(2,\), \(2, 2\), \(2, 2\)"),
        ({"times": (T([0, 1]), T([0]))}, "times of torch.int64; expected float32"),
        ({"times": (T([0.0, 1.0]), T([0.0]).double())}, r"series 1 \(s1\) .*torch.float64"),
        ({"times": (T([1.0, 0.5]), T([0.0]))}, r"series 0 \(s0\) has times that fall.*row 1 at"),
        ({"times": (T([0.0, 0.5]), T([NAN]))}, r"series 1 \(s1\) has a time that is not.*row 0"),
        ({"values": (T([[0.0, 0], [0, NAN]]), T([[0.0, 0]]))}, r"series 0 .* an observed value"),
        (
            {"values": (torch.zeros(2, 2).double(), torch.zeros(1, 2))},
            "series 0 .*torch.float64, torch.bool",
        ),
        (
            {"labels": T([0.0, 1.0])},
            r"labels of torch.float32 and shape \(2,\); expected torch.int",
        ),
        ({"labels": T([0])}, r"labels of torch.int64 and shape \(1,\)"),
        ({"until": T([1.0])}, r"until of torch.float32 and shape \(1,\)"),
        ({"until": T([0.5, 1.0])}, r"series 0 \(s0\) goes to 1, but was watched until 0.5"),
    ],
)
def test_parts_that_do_not_fit_are_named(changes: dict[str, object], found: str) -> None:
    sound = SeriesSet(
        (T([0.0, 1.0]), T([0.0])),
        (torch.zeros(2, 2), torch.zeros(1, 2)),
        (torch.ones(2, 2).bool(), torch.ones(1, 2).bool()),
        ("s0", "s1"),
        ("a", "b"),
        name="some",
    )
    with pytest.raises(DataError, match=f"some: {found}"):
        dataclasses.replace(sound, **changes)  # type: ignore[arg-type]


def test_what_is_not_observed_may_be_anything() -> None:
    values = T([[NAN, 1.0]])
    series = SeriesSet((T([0.0]),), (values,), (~values.isnan(),), ("s",), ("a", "b"))
    assert series.batch().values.tolist() == [[[0, 1]]]


def _by_hand(
    times: Tensor, values: Tensor, mask: Tensor, width: float
) -> dict[float, list[object]]:
    bins: dict[float, list[object]] = {}
    for step in sorted({round(t / width) for t in times.tolist()}):
        inside = torch.tensor([round(t / width) == step for t in times.tolist()])
        means = []
        for column in range(values.shape[1]):
            seen = values[inside & mask[:, column], column]
            means.append(float(seen.double().mean()) if len(seen) else None)
        bins[step * width] = means
    return bins


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    width=st.sampled_from([0.1, 0.5, 1.0, 30.0]),
    seed=st.integers(0, 100),
)
def test_the_grid_holds_the_means(lengths: list[int], width: float, seed: int) -> None:
    series = _series(*lengths, seed=seed)
    coarse = series.quantised(width)
    assert coarse.subjects == series.subjects
    for index in range(len(series)):
        expected = _by_hand(series.times[index], series.values[index], series.mask[index], width)
        torch.testing.assert_close(coarse.times[index], T(list(expected)).double().reshape(-1))
        for row, means in enumerate(expected.values()):
            for column, mean in enumerate(means):
                assert bool(coarse.mask[index][row, column]) == (mean is not None)
                given = float(coarse.values[index][row, column])
                assert given == pytest.approx(mean or 0.0, rel=1e-6, abs=1e-6)


def test_a_window_is_not_left_by_rounding() -> None:
    """47.9 goes to 50 on a grid of 5, beyond the window that ends at 48."""
    series = _series(1, 1, until=T([48.0, 48.0]).double())
    series = dataclasses.replace(series, times=(T([47.9]).double(), T([1.0]).double()))
    coarse = series.quantised(5.0)
    assert coarse.until is not None
    assert coarse.until.tolist() == [50, 48]


def test_grids_that_make_no_sense_are_refused() -> None:
    for width in (0.0, -1.0, NAN, float("inf")):
        with pytest.raises(InputError, match="width"):
            _series(3).quantised(width)
    with pytest.raises(DataError, match="events have no values"):
        _series(3, width=0).quantised(1.0)


def test_a_reading_accounts_for_every_row() -> None:
    faults = {"bad": Fault(2, "line 3"), "strange": Fault(5, "line 1", "note")}
    reading = Reading("file", 1002, 1000, faults)
    assert reading.summary() == {
        "source": "file",
        "rows": "1,002",
        "kept": "1,000",
        "bad": "2, first: line 3",
        "strange": "5, first: line 1",
    }
    with pytest.raises(DataError, match=r"file: of 1,003 rows 1,000 are kept and 2 have a fault"):
        Reading("file", 1003, 1000, faults)
