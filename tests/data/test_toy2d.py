"""Points in the plane: samples and densities agree with each other and with scikit-learn."""

import functools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import make_circles, make_moons
from torch import Tensor

from isocline.data import TOY2D, Toy2D, toy2d
from isocline.errors import InputError

SAMPLES = 100_000

# The grid is 20 x 20 cells of 30 x 30 points: a point every 0.0075 for the narrow circles.
CELLS, FINE = 20, 30

each_toy = pytest.mark.parametrize("toy", TOY2D.values(), ids=TOY2D)


def _draw(toy: Toy2D, n: int, seed: int = 0) -> Tensor:
    return toy.sample(n, torch.Generator().manual_seed(seed))


@functools.cache
def _density(toy: Toy2D) -> tuple[Tensor, float]:
    """Log density on the fine grid, ``(CELLS, FINE, CELLS, FINE)``, and the area of one point."""
    assert toy.log_density is not None
    left, right, bottom, top = toy.bounds
    count = CELLS * FINE
    middle = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    x, y = left + (right - left) * middle, bottom + (top - bottom) * middle
    points = torch.stack(torch.meshgrid(x, y, indexing="ij"), dim=-1).view(-1, 2)
    area = (right - left) * (top - bottom) / count**2
    return toy.log_density(points).view(CELLS, FINE, CELLS, FINE), area


def _p_value(toy: Toy2D, points: Tensor) -> float:
    """Chi-square of the counts on the coarse grid against the density."""
    log_density, area = _density(toy)
    expected = (log_density.exp().sum(dim=(1, 3)) * area).flatten().numpy() * len(points)
    left, right, bottom, top = toy.bounds
    counts, _, _ = np.histogram2d(
        *points.double().T.numpy(), bins=CELLS, range=((left, right), (bottom, top))
    )
    found = counts.flatten()
    many = expected >= 5
    # Everything else, also what lies outside of the bounds, is one more class.
    found = np.append(found[many], len(points) - found[many].sum())
    expected = np.append(expected[many], max(len(points) - expected[many].sum(), 1e-9))
    if expected[-1] < 5:
        assert found[-1] <= 20
        found, expected = found[:-1], expected[:-1] * found[:-1].sum() / expected[:-1].sum()
    return float(scipy.stats.chisquare(found, expected).pvalue)


@each_toy
def test_density_integrates_to_one(toy: Toy2D) -> None:
    log_density, area = _density(toy)
    assert float(log_density.exp().sum() * area) == pytest.approx(1, abs=2e-4)


@each_toy
def test_samples_follow_the_density(toy: Toy2D) -> None:
    assert _p_value(toy, _draw(toy, SAMPLES)) > 1e-3


@each_toy
def test_entropy_is_that_of_density_and_samples(toy: Toy2D) -> None:
    assert toy.log_density is not None
    assert toy.entropy is not None
    log_density, area = _density(toy)
    entropy = -float((log_density.exp() * log_density).nan_to_num().sum() * area)
    assert entropy == pytest.approx(toy.entropy, abs=1e-3)
    measured = -toy.log_density(_draw(toy, SAMPLES))
    error = 4 * float(measured.std()) / math.sqrt(SAMPLES) + 1e-6
    assert float(measured.mean()) == pytest.approx(toy.entropy, abs=error)


def test_scikit_learns_circles_and_moons_follow_the_densities() -> None:
    circles, _ = make_circles(SAMPLES, noise=0.06, factor=0.5, random_state=0)
    assert _p_value(TOY2D["two-circles"], torch.from_numpy(circles)) > 1e-3
    moons, _ = make_moons(SAMPLES, noise=0.06, random_state=0)
    standardised = (moons - [0.5, 0.25]) / [0.868, 0.498]
    assert _p_value(TOY2D["two-moons"], torch.from_numpy(standardised)) > 1e-3


@each_toy
def test_samples_are_a_function_of_the_generator_alone(toy: Toy2D) -> None:
    first = _draw(toy, 64)
    torch.manual_seed(7)
    assert first.shape == (64, 2)
    assert first.dtype == torch.float32
    assert torch.equal(_draw(toy, 64), first)
    assert not torch.equal(_draw(toy, 64, seed=1), first)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(toy.sample(64, generator), first)
    again = toy.sample(64, generator)
    assert not set(map(tuple, again.tolist())) & set(map(tuple, first.tolist()))
    assert toy.sample(0, generator).shape == (0, 2)


@each_toy
def test_points_do_not_depend_on_each_other(toy: Toy2D) -> None:
    """With evenly spaced angles, neighbours in a small draw would repel each other."""
    # The mean of 8 numbers has an eighth of their variance only if they are independent. Squares
    # and the product too, for the moons are each other's mirror image.
    generator = torch.Generator().manual_seed(0)
    x, y = torch.stack([toy.sample(8, generator) for _ in range(4000)]).unbind(-1)
    for feature in (x, y, x**2, y**2, x * y):
        ratio = 8 * float(feature.mean(1).var() / feature.flatten().var())
        assert ratio == pytest.approx(1, abs=0.1)


@each_toy
def test_bounds_hold_nearly_all_points(toy: Toy2D) -> None:
    left, right, bottom, top = toy.bounds
    x, y = _draw(toy, SAMPLES).T
    outside = (x < left) | (x > right) | (y < bottom) | (y > top)
    assert int(outside.sum()) < 1e-4 * SAMPLES


@each_toy
def test_log_density_keeps_type_and_is_finite_in_the_plot(toy: Toy2D) -> None:
    assert toy.log_density is not None
    points = _draw(toy, 5000)
    single, double = toy.log_density(points), toy.log_density(points.double())
    assert single.dtype == torch.float32
    assert double.dtype == torch.float64
    assert bool(double.isfinite().all())
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)
    if toy.name != "checkerboard":
        assert bool(_density(toy)[0].isfinite().all())


@given(
    name=st.sampled_from([name for name in TOY2D if name != "checkerboard"]),
    point=st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5)),
)
def test_log_density_and_gradient_are_finite_anywhere(
    name: str, point: tuple[float, float]
) -> None:
    log_density = TOY2D[name].log_density
    assert log_density is not None
    for place in (point, (0.0, 0.0)):
        x = torch.tensor([place], dtype=torch.float64, requires_grad=True)
        value = log_density(x)
        value.sum().backward()
        assert bool(value.isfinite().all())
        assert x.grad is not None
        assert bool(x.grad.isfinite().all())


@pytest.mark.parametrize("name", [name for name in TOY2D if name != "checkerboard"])
def test_gradient_is_that_of_the_density(name: str) -> None:
    toy = TOY2D[name]
    x = _draw(toy, 20).double().requires_grad_()
    assert torch.autograd.gradcheck(toy.log_density, x, eps=1e-7, atol=1e-4, rtol=1e-4)


def test_checkerboard_is_flat_on_eight_squares() -> None:
    log_density = TOY2D["checkerboard"].log_density
    assert log_density is not None
    middles = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    board = log_density(torch.stack(torch.meshgrid(middles, middles, indexing="ij"), -1))
    on = board == torch.tensor(-math.log(8))
    assert int(on.sum()) == 8
    assert bool((board[~on] == -math.inf).all())
    assert on[1:-1, 1:-1].diag().all()
    assert not on[1, 2]


def test_checkerboards_largest_number_stays_in_its_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding to the next square gave a point where the density is zero."""
    monkeypatch.setattr(toy2d, "_uniform", lambda n, generator: torch.full((n,), 1 - 2**-24))
    toy = TOY2D["checkerboard"]
    assert toy.log_density is not None
    assert bool(toy.log_density(_draw(toy, 1000)).isfinite().all())


def test_noise_of_a_circle_in_closed_form() -> None:
    """At the middle of two rings, both densities are those of a circle seen from its centre."""
    log_density = TOY2D["two-circles"].log_density
    assert log_density is not None
    at_zero = float(log_density(torch.zeros(1, 2, dtype=torch.float64)))
    rings = [math.exp(-(radius**2) / (2 * 0.06**2)) for radius in (1.0, 0.5)]
    assert at_zero == pytest.approx(math.log(sum(rings) / 2 / (2 * math.pi * 0.06**2)), rel=1e-12)


@each_toy
@pytest.mark.parametrize("points", [torch.zeros(3, 3), torch.zeros(3, 2, dtype=torch.long)])
def test_what_is_no_point_is_refused(toy: Toy2D, points: Tensor) -> None:
    assert toy.log_density is not None
    with pytest.raises(InputError, match=r"`x`: given .* the points of the plane"):
        toy.log_density(points)
