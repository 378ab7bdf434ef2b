"""Series split by subject, and their scales."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from isocline.data import DataError, SeriesSet, SeriesSplits, fit_scaling, split_series
from isocline.errors import InputError

NAN = float("nan")


def _one_row(subjects: list[str], labels: list[int] | None = None) -> SeriesSet:
    """Series of one row, whose value tells which it is."""
    number = len(subjects)
    return SeriesSet(
        tuple(torch.full((number, 1), 2.0)),
        tuple(torch.arange(number).float().reshape(number, 1, 1)),
        tuple(torch.ones(number, 1, 1).bool()),
        tuple(subjects),
        ("number",),
        labels=None if labels is None else torch.tensor(labels),
        name="rows",
    )


def _columns(values: Tensor, times: Tensor | None = None) -> SeriesSet:
    """One series of a table with NaN where nothing was observed."""
    times = torch.arange(len(values)).float() if times is None else times
    names = tuple("abcdefgh"[: values.shape[1]])
    return SeriesSet((times,), (values,), (~values.isnan(),), ("s",), names)


def _parts(splits: SeriesSplits) -> tuple[SeriesSet, SeriesSet, SeriesSet]:
    return splits.train, splits.validation, splits.test


def _numbers(part: SeriesSet) -> set[float]:
    return {float(value) for value in part.values}


@given(
    owners=st.lists(st.integers(0, 40), min_size=1, max_size=120),
    labelled=st.booleans(),
    seed=st.integers(0, 2**31),
    validation=st.floats(0.02, 0.45),
    test=st.floats(0.02, 0.45),
)
def test_no_subject_lies_in_two_parts(
    owners: list[int], labelled: bool, seed: int, validation: float, test: float
) -> None:
    labels = [index % 3 for index in range(len(owners))] if labelled else None
    series = _one_row([f"s{owner}" for owner in owners], labels)
    number = len(set(owners))
    sizes = [max(1, round(part * number)) for part in (validation, test)]
    if number < 3 or sum(sizes) >= number:
        with pytest.raises(DataError):
            split_series(series, validation, test, seed)
        return
    splits = split_series(series, validation, test, seed, standardise=False)
    subjects = [set(part.subjects) for part in _parts(splits)]
    assert [len(part) for part in subjects] == [number - sum(sizes), *sizes]
    assert sum(map(len, subjects)) == len(set().union(*subjects))
    found = [_numbers(part) for part in _parts(splits)]
    assert sum(map(len, found)) == len(series)
    assert set().union(*found) == set(range(len(series)))


@given(ones=st.integers(0, 100), seed=st.integers(0, 2**31))
def test_each_part_has_its_share_of_each_label(ones: int, seed: int) -> None:
    series = _one_row([f"s{i}" for i in range(200)], [int(i < ones) for i in range(200)])
    splits = split_series(series, seed=seed)
    for part, share in zip(_parts(splits), (0.7, 0.1, 0.2), strict=True):
        assert part.labels is not None
        assert len(part) == round(share * 200)
        assert abs(int(part.labels.sum()) - share * ones) <= 2


def test_rare_labels_reach_the_test_part_with_some_seed() -> None:
    """Taken at fixed places, the last stratum would never be tested."""
    series = _one_row([f"s{i}" for i in range(50)], [int(i == 7) for i in range(50)])
    found = {bool(split_series(series, seed=s).test.labels.any()) for s in range(40)}  # type: ignore[union-attr]
    assert found == {False, True}


def test_the_split_follows_from_seed_and_names_alone() -> None:
    names = [f"s{i}" for i in range(60)]
    labels = [i % 2 for i in range(60)]
    first = split_series(_one_row(names, labels), seed=3)
    torch.manual_seed(99)
    again = split_series(_one_row(names[::-1], labels[::-1]), seed=3)
    other = split_series(_one_row(names, labels), seed=4)
    for part, same, different in zip(_parts(first), _parts(again), _parts(other), strict=True):
        assert set(part.subjects) == set(same.subjects) != set(different.subjects)


def test_a_subject_counts_with_its_largest_label() -> None:
    names = [f"s{i // 2}" for i in range(400)]
    labels = [int(i % 2 == 1 and i < 80) for i in range(400)]
    test = split_series(_one_row(names, labels)).test
    assert test.labels is not None
    assert abs(int(test.labels.sum()) - 8) <= 1


@pytest.mark.parametrize("parts", [(0.0, 0.2), (0.1, 0.0), (0.5, 0.5), (NAN, 0.2), (-0.1, 0.2)])
def test_parts_that_make_no_sense_are_refused(parts: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="validation, test"):
        split_series(_one_row(list("abcdefgh")), *parts)


def test_too_few_subjects_are_refused() -> None:
    with pytest.raises(DataError, match=r"rows: 2 subject\(s\) for 4 series, but at least 3"):
        split_series(_one_row(["a", "b", "a", "b"]))
    with pytest.raises(DataError, match="leave none to train on"):
        split_series(_one_row(list("abcd")), 0.45, 0.5)


def test_training_values_alone_set_the_scale() -> None:
    splits = split_series(_one_row([f"s{i}" for i in range(100)]))
    train = torch.cat(splits.train.values).double()
    assert abs(float(train.mean())) < 1e-5
    assert float(train.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert abs(float(torch.cat(splits.test.values).mean())) > 1e-3
    assert splits.scaling.time_scale == 2
    assert float(splits.test.times[0]) == 1


def test_unobserved_entries_count_for_nothing() -> None:
    values = torch.tensor([[1.0, NAN, NAN, 7.0], [3.0, 5.0, NAN, 7.0], [NAN, 9.0, NAN, NAN]])
    series = _columns(values)
    hidden = [value.nan_to_num(1e30) for value in series.values]
    for whole in (
        series,
        SeriesSet(series.times, tuple(hidden), series.mask, ("s",), tuple("abcd")),
    ):
        scaling = fit_scaling(whole)
        assert scaling.values.mean.tolist() == [2, 7, 0, 7]
        assert scaling.values.std.tolist() == [1, 2, 1, 1]
        scaled = whole.scaled(scaling).values[0]
        expected = [[-1, 0, 0, 0], [1, -1, 0, 0], [0, 1, 0, 0]]
        assert scaled.tolist() == expected


@given(mean=st.floats(-1e5, 1e5), spread=st.floats(1e-2, 1e4), end=st.floats(1e-3, 1e6))
def test_restoring_undoes_scaling(mean: float, spread: float, end: float) -> None:
    generator = torch.Generator().manual_seed(0)
    values = mean + spread * torch.randn(50, 2, generator=generator)
    series = _columns(values, torch.linspace(0, end, 50, dtype=torch.float64))
    scaling = fit_scaling(series)
    scaled = series.scaled(scaling)
    assert scaled.times[0].dtype == torch.float32
    rounding = 1e-6 * (10 * spread + abs(mean))
    torch.testing.assert_close(scaling.restore(scaled.values[0]), values, rtol=1e-5, atol=rounding)
    times = scaling.restore_times(scaled.times[0].double())
    torch.testing.assert_close(times, series.times[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(
        scaling.standardise_times(series.times[0]).float(), scaled.times[0], rtol=1e-6, atol=0
    )
    wide, low = scaling.restore_std(torch.ones(7, 2)), scaling.restore(torch.zeros(7, 2))
    torch.testing.assert_close(
        scaling.restore(torch.ones(7, 2)) - low, wide, rtol=1e-3, atol=rounding
    )
    assert torch.equal(scaling.restore_std(torch.zeros(2)), torch.zeros(2))


def test_a_slip_of_the_pen_does_not_set_the_scale() -> None:
    """One pH of 735 among 5,000 near 7.4."""
    generator = torch.Generator().manual_seed(0)
    sound = 7.4 + 0.08 * torch.randn(5000, 1, generator=generator)
    damaged = sound.clone()
    damaged[17] = 735.0
    plain, clipped = (fit_scaling(_columns(damaged), clip=clip) for clip in (False, True))
    assert float(plain.values.std) > 10
    assert float(clipped.values.std) == pytest.approx(0.08, rel=0.05)
    assert clipped.limits is not None
    assert 7.6 < float(clipped.limits[1]) < 7.8
    scaled = _columns(damaged).scaled(clipped).values[0]
    assert float(scaled.abs().max()) < 5
    inside = (sound >= clipped.limits[0]) & (sound <= clipped.limits[1])
    assert math.isclose(float(inside.float().mean()), 0.998, abs_tol=2e-4)
    inside[17] = False
    torch.testing.assert_close(clipped.restore(scaled)[inside], sound[inside])


def test_clipping_leaves_what_was_never_observed() -> None:
    scaling = fit_scaling(_columns(torch.full((3, 2), NAN)), clip=True)
    other = torch.tensor([[1e9, -1e9]])
    assert torch.equal(scaling.standardise(other), other)


def test_windows_are_scaled_with_the_times() -> None:
    series = SeriesSet(
        (torch.tensor([1.0, 4.0]), torch.empty(0)),
        (torch.empty(2, 0), torch.empty(0, 0)),
        (torch.empty(2, 0).bool(), torch.empty(0, 0).bool()),
        ("a", "b"),
        (),
        until=torch.tensor([5.0, 10.0]),
    )
    scaled = series.scaled(fit_scaling(series))
    assert scaled.times[0].tolist() == pytest.approx([0.1, 0.4])
    assert scaled.until is not None
    assert scaled.until.tolist() == [0.5, 1.0]
    assert series.scaled(fit_scaling(series, time_scale=5.0)).until.tolist() == [1, 2]  # type: ignore[union-attr]


def test_a_scale_that_does_not_fit_is_refused() -> None:
    series = _columns(torch.ones(3, 2))
    for time_scale in (0.0, -1.0, NAN):
        with pytest.raises(InputError, match="time_scale"):
            fit_scaling(series, time_scale=time_scale)
    with pytest.raises(DataError, match=r"series: 1 feature\(s\), but the scaling is one of 2"):
        series.only(["a"]).scaled(fit_scaling(series))
