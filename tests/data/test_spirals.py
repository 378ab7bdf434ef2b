"""Spirals: their shape, their noise, what is observed of them."""

import math

import pytest
import torch

from isocline.data import archimedean_spirals, spirals
from isocline.errors import InputError


def test_a_clean_spiral_is_the_formula() -> None:
    paths = spirals(20, points=50, beyond=30)
    assert paths.times.shape == (80,)
    torch.testing.assert_close(paths.times, torch.arange(80) / 50)
    x, y = paths.clean.double().unbind(-1)
    radius = (x.square() + y.square()).sqrt()
    angle = (radius - 0.5) / 0.1
    assert float(angle[:, 0].min()) >= -1e-4
    assert float(angle[:, 0].max()) < 2 * math.pi
    # One turn of 50 steps, and as much again for the rest.
    turn = 2 * math.pi / 50
    torch.testing.assert_close(
        angle.diff(dim=1), torch.full_like(angle[:, 1:], turn), rtol=0, atol=1e-4
    )
    sign = (1 - 2 * paths.direction).unsqueeze(1)
    torch.testing.assert_close(x, radius * angle.cos(), rtol=0, atol=1e-4)
    torch.testing.assert_close(y, sign * radius * angle.sin(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("number", [1, 2, 7, 100])
def test_half_turn_either_way(number: int) -> None:
    paths = spirals(number, points=10, beyond=0)
    assert len(paths) == number
    assert int(paths.direction.sum()) == number // 2
    # The cross product of place and step tells the direction: negative for clockwise.
    place, step = paths.clean[:, 0], paths.clean[:, 1] - paths.clean[:, 0]
    cross = place[:, 0] * step[:, 1] - place[:, 1] * step[:, 0]
    assert torch.equal((cross < 0).long(), paths.direction)


def test_directions_stand_in_random_order() -> None:
    changes = int(spirals(200, points=2, beyond=0).direction.diff().abs().sum())
    assert 60 < changes < 140


def test_noise_has_its_deviation() -> None:
    paths = spirals(200, noise=0.3)
    error = (paths.noisy - paths.clean).double()
    assert float(error.std()) == pytest.approx(0.3, rel=0.02)
    assert abs(float(error.mean())) < 0.01
    assert torch.equal(spirals(3, noise=0.0).noisy, spirals(3, noise=0.0).clean)


def test_series_are_noisy_points_of_the_observed_turn() -> None:
    paths = spirals(30, observed=12)
    series = paths.series()
    assert series.lengths.tolist() == [12] * 30
    assert series.features == ("x", "y")
    assert series.labels is not None
    assert torch.equal(series.labels, paths.direction)
    for index, (times, values) in enumerate(zip(series.times, series.values, strict=True)):
        places = (times * 100).round().long()
        assert int(places.max()) < 100
        assert len(places.unique()) == 12
        assert torch.equal(values, paths.noisy[index, places])
    assert len({tuple(times.tolist()) for times in series.times}) == 30
    assert series.batch().features == 2


def test_fewer_points_are_some_of_more() -> None:
    paths = spirals(10)
    few, many = paths.series(10), paths.series(30)
    for some, more in zip(few.times, many.times, strict=True):
        assert set(some.tolist()) < set(more.tolist())
    assert paths.series().lengths.tolist() == [100] * 10


def test_everything_follows_from_the_seed() -> None:
    first = spirals(10, observed=5, seed=1)
    torch.manual_seed(77)
    again, other = spirals(10, observed=5, seed=1), spirals(10, observed=5, seed=2)
    assert torch.equal(first.noisy, again.noisy)
    assert torch.equal(first.series().batch().times, again.series().batch().times)
    assert not torch.equal(first.clean, other.clean)
    assert not torch.equal(first.series().batch().times, first.series(seed=9).batch().times)


def test_what_is_beyond_is_there_without_noise() -> None:
    paths = spirals(4, points=20, beyond=5)
    torch.testing.assert_close(paths.times_beyond, 1 + torch.arange(5) / 20)
    assert torch.equal(paths.clean_beyond, paths.clean[:, 20:])
    assert spirals(4, beyond=0).clean_beyond.shape == (4, 0, 2)


def test_the_authors_spirals_lie_on_their_two_curves() -> None:
    paths = archimedean_spirals(400, beyond=20)
    assert paths.clean.shape == (400, 120, 2)
    assert {0, 1} == set(paths.direction.tolist())
    step = float(paths.times[1])
    assert step == pytest.approx(6 * math.pi / 999, rel=1e-5)
    for path, direction in zip(paths.clean.double(), paths.direction.tolist(), strict=True):
        x, y = path[:, 0] + (5 if direction else -5), path[:, 1]
        radius = torch.hypot(x, y)
        angle = 15 / radius if direction else radius / 0.3
        torch.testing.assert_close(x, radius * angle.cos(), rtol=0, atol=2e-3)
        torch.testing.assert_close(y, radius * angle.sin(), rtol=0, atol=2e-3)
        along = 6 * math.pi + 1 - angle if direction else angle
        assert float(along[0]) > 99 * step
        torch.testing.assert_close(
            along.diff(), torch.full((119,), step).double(), rtol=0, atol=1e-3
        )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"number": 0}, "number"),
        ({"points": 0}, "points"),
        ({"beyond": -1}, "beyond"),
        ({"noise": -0.1}, "noise"),
        ({"noise": math.nan}, "noise"),
        ({"observed": 101}, "observed"),
        ({"observed": 0}, "observed"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(arguments: dict[str, int], named: str) -> None:
    for make in (spirals, archimedean_spirals):
        with pytest.raises(InputError, match=named):
            make(**{"number": 3, **arguments})
    with pytest.raises(InputError, match="observed"):
        spirals(3).series(101)
    with pytest.raises(InputError, match="below 1000"):
        archimedean_spirals(3, points=400, beyond=200)
