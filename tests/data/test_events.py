"""Intensities against quadrature, events against the intensity that they were drawn from."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from isocline.data import (
    Bumps,
    Daily,
    DataError,
    Decaying,
    Intensity,
    Moved,
    event_series,
    moved_intensities,
)
from isocline.errors import InputError

CASES = [
    Daily(),
    Daily(level=2.0, depth=1.0, period=1.7, phase=0.6, end=3.0),
    Bumps(),
    Bumps(heights=(), centres=(), widths=()),
    Decaying(),
    Moved(Daily(), shift=0.3, scale=2.0),
    Moved(Decaying(), shift=0.7, scale=0.5),
    Moved(Bumps(), shift=-0.5),
]
every_intensity = pytest.mark.parametrize("intensity", CASES, ids=repr)


@every_intensity
def test_the_integral_is_that_of_the_rate(intensity: Intensity) -> None:
    def rate(t: float) -> float:
        return float(intensity.rate(torch.tensor(t, dtype=torch.float64)))

    for t0, t1 in [(0.0, intensity.end), (0.4, 1.1), (1.0, 1.0), (2.0, 0.5)]:
        expected = integrate.quad(rate, t0, t1, limit=200, points=[1.0, 2.8])[0]
        assert float(intensity.integral(t0, t1)) == pytest.approx(expected, abs=1e-9)
    ends = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert intensity.integral(0.0, ends).shape == (3,)


@every_intensity
def test_no_rate_is_above_the_bound(intensity: Intensity) -> None:
    times = torch.linspace(0, intensity.end, 2001, dtype=torch.float64)
    rate = intensity.rate(times)
    assert float(rate.min()) >= 0
    assert float(rate.max()) <= intensity._bound(0.0, intensity.end) * (1 + 1e-12)
    assert intensity.rate(times.float()).dtype == torch.float32


@every_intensity
def test_events_follow_their_intensity(intensity: Intensity) -> None:
    """Counts are Poisson; times, sent through the integral, are uniform."""
    series = event_series(intensity, 400)
    total = float(intensity.integral(0.0, intensity.end))
    counts = series.lengths.double()
    assert float(counts.mean()) == pytest.approx(total, abs=4 * math.sqrt(total / 400))
    assert float(counts.var() / total) == pytest.approx(1, abs=0.3)
    through = intensity.integral(torch.zeros(()).double(), torch.cat(series.times).double()) / total
    assert stats.kstest(through.numpy(), "uniform").pvalue > 1e-3


def test_the_likelihood_is_the_textbook_s() -> None:
    flat = Daily(level=3.0, depth=0.0, end=2.0)
    times = torch.tensor([0.3, 1.1, 1.9])
    assert float(flat.log_likelihood(times)) == pytest.approx(3 * math.log(3) - 6)
    assert float(flat.log_likelihood(times[:0])) == pytest.approx(-6)
    assert flat.log_likelihood(times).dtype == torch.float64


@every_intensity
def test_the_truth_is_likelier_than_other_intensities(intensity: Intensity) -> None:
    series = event_series(intensity, 200, seed=5)
    others = [Moved(intensity, 0.4), Moved(intensity, 0.0, 1.3), Daily(level=4.0, depth=0.1)]

    def mean(one: Intensity) -> float:
        return float(np.mean([float(one.log_likelihood(times)) for times in series.times]))

    truth = mean(intensity)
    # A constant intensity is the same when moved.
    flat = isinstance(intensity, Bumps) and not intensity.heights
    assert all(truth > mean(other) for other in others[1 if flat else 0 :])


def test_events_are_a_set_without_features() -> None:
    series = event_series(Daily(end=3.0), 5)
    assert series.features == ()
    assert series.until is not None
    assert series.until.tolist() == [3] * 5
    batch = series.batch()
    assert batch.features == 0
    assert torch.equal(batch.lengths, series.lengths)


def test_a_series_does_not_depend_on_how_many_there_are() -> None:
    few, many = event_series(Daily(), 2, seed=3), event_series(Daily(), 9, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(few.times, many.times, strict=False))
    assert not torch.equal(few.times[0], few.times[1])
    assert not torch.equal(few.times[0], event_series(Daily(), 1, seed=4).times[0])


def test_no_two_series_share_their_noise() -> None:
    series = event_series([Daily(), Daily(), Daily()], 3)
    assert len({tuple(times.tolist()) for times in series.times}) == 9


def test_each_of_several_intensities_gives_its_series() -> None:
    kinds = [Daily(level=1.0, end=1.0), Daily(level=200.0, end=2.0)]
    series = event_series(kinds, 3)
    assert series.until is not None
    assert series.until.tolist() == [1, 1, 1, 2, 2, 2]
    assert int(series.lengths[:3].max()) < 20 < 200 < int(series.lengths[3:].min())


def test_series_may_have_no_event() -> None:
    series = event_series(Daily(level=1e-9), 3)
    assert series.lengths.tolist() == [0, 0, 0]
    assert series.batch().rows == 0


def test_variants_differ_as_they_are_told() -> None:
    variants = moved_intensities(Daily(), 500, shift=0.25, spread=0.4)
    moved = [variant for variant in variants if isinstance(variant, Moved)]
    shifts, scales = ([getattr(m, name) for m in moved] for name in ("shift", "scale"))
    assert -0.25 <= min(shifts) < -0.2 < 0.2 < max(shifts) <= 0.25
    assert float(np.log(scales).std()) == pytest.approx(0.4, rel=0.1)
    assert moved_intensities(Daily(), 2) == (Moved(Daily()), Moved(Daily()))
    assert variants[0].end == Daily().end


def test_numbers_that_make_no_sense_are_refused() -> None:
    wrong = [
        lambda: Daily(level=0.0),
        lambda: Daily(depth=1.1),
        lambda: Daily(period=-1.0),
        lambda: Daily(end=math.inf),
        lambda: Bumps(heights=(1.0,)),
        lambda: Bumps(heights=(1.0, -1.0)),
        lambda: Bumps(widths=(0.1, 0.0)),
        lambda: Decaying(height=-1.0),
        lambda: Moved(Daily(), scale=0.0),
        lambda: event_series(Daily(), 0),
        lambda: event_series([], 1),
        lambda: moved_intensities(Daily(), 0),
    ]
    for make in wrong:
        with pytest.raises(InputError):
            make()
    with pytest.raises(DataError, match="expected a smaller intensity"):
        event_series(Daily(level=1e9))
