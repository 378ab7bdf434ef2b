"""The paper's potentials: formulas, stability, walls and normalisers."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.integrate
import torch
from hypothesis import given
from hypothesis import strategies as st

from isocline.data import POTENTIALS, Bounds, Potential, log_normalizer
from isocline.errors import InputError

each_potential = pytest.mark.parametrize("potential", POTENTIALS.values(), ids=POTENTIALS)


def _paper(name: str) -> Callable[[float, float], float]:
    """Table 1 as it is printed, without care for underflow."""
    exp, sin = math.exp, math.sin

    def w1(a: float) -> float:
        return sin(2 * math.pi * a / 4)

    def w2(a: float) -> float:
        return 3 * exp(-0.5 * ((a - 1) / 0.6) ** 2)

    def w3(a: float) -> float:
        return 3 / (1 + exp(-(a - 1) / 0.3))

    return {
        "u1": lambda a, b: (
            0.5 * ((math.hypot(a, b) - 2) / 0.4) ** 2
            - math.log(exp(-0.5 * ((a - 2) / 0.6) ** 2) + exp(-0.5 * ((a + 2) / 0.6) ** 2))
        ),
        "u2": lambda a, b: 0.5 * ((b - w1(a)) / 0.4) ** 2,
        "u3": lambda a, b: (
            -math.log(
                exp(-0.5 * ((b - w1(a)) / 0.35) ** 2)
                + exp(-0.5 * ((b - w1(a) + w2(a)) / 0.35) ** 2)
            )
        ),
        "u4": lambda a, b: (
            -math.log(
                exp(-0.5 * ((b - w1(a)) / 0.4) ** 2) + exp(-0.5 * ((b - w1(a) + w3(a)) / 0.35) ** 2)
            )
        ),
    }[name]


@each_potential
def test_energy_is_the_papers(potential: Potential) -> None:
    points = 6 * torch.rand(200, 2, dtype=torch.float64) - 3
    expected = [_paper(potential.name)(*point) for point in points.tolist()]
    torch.testing.assert_close(potential.energy(points), torch.tensor(expected).double())
    torch.testing.assert_close(potential.log_density(points), -potential.energy(points))
    assert potential.log_density(points.view(20, 10, 2)).shape == (20, 10)
    assert potential.log_density(points.float()).dtype == torch.float32


@given(
    name=st.sampled_from(list(POTENTIALS)),
    point=st.tuples(st.floats(-1e3, 1e3, width=32), st.floats(-1e3, 1e3, width=32)),
)
def test_far_points_are_pulled_back(name: str, point: tuple[float, float]) -> None:
    """The printed formulas give infinity and NaN in single precision a few units away."""
    for place in (point, (0.0, 0.0)):
        z = torch.tensor([place], requires_grad=True)
        value = POTENTIALS[name].log_density(z)
        value.sum().backward()
        assert bool(value.isfinite().all())
        assert z.grad is not None
        assert bool(z.grad.isfinite().all())
        if abs(place[1]) > 10:
            assert float(z.grad[0, 1]) * place[1] < 0


def test_gradients_are_those_of_the_density() -> None:
    z = (8 * torch.rand(30, 2, dtype=torch.float64) - 4).requires_grad_()
    for potential in POTENTIALS.values():
        assert torch.autograd.gradcheck(potential.log_density, z)


@each_potential
def test_wall_stands_outside_of_the_papers_square(potential: Potential) -> None:
    left, right, bottom, top = potential.bounds
    assert (left, right, bottom, top) == (-4, 4, -4, 4)
    z = torch.tensor([[4.0, 0.5], [-4.0, 0.5], [4.8, 0.5], [-4.8, 0.5]], dtype=torch.float64)
    wall = (-potential.energy(z) - potential.log_density(z)).tolist()
    assert wall == pytest.approx([0, 0, 2, 2] if potential.confined else [0] * 4)


@each_potential
def test_walls_stand_where_the_integral_has_no_end(potential: Potential) -> None:
    """Without its wall, the mass of a band grows with its length; U1's has long converged."""
    masses = []
    for reach in (8.0, 16.0, 32.0):
        x = torch.arange(-reach, reach, 1 / 32, dtype=torch.float64)
        y = torch.arange(-8, 6, 1 / 32, dtype=torch.float64)
        points = torch.stack(torch.meshgrid(x, y, indexing="ij"), dim=-1)
        masses.append(float((-potential.energy(points)).exp().sum() / 32**2))
    growth = [masses[1] - masses[0], masses[2] - masses[1]]
    if potential.confined:
        assert growth[0] > 10
        assert growth[1] == pytest.approx(2 * growth[0], rel=1e-3)
    else:
        assert growth == pytest.approx([0, 0], abs=1e-9)


def test_normaliser_of_the_band_in_closed_form() -> None:
    """U2 is a Gaussian across the band, 8 long and a Gaussian's ends: exact but for rounding."""
    across = math.sqrt(2 * math.pi) * 0.4
    assert log_normalizer(POTENTIALS["u2"]) == pytest.approx(
        math.log(across * (8 + across)), abs=1e-8
    )


@each_potential
@pytest.mark.parametrize("bounds", [(-4.0, 4.0, -4.0, 4.0), (-1.0, 3.0, -2.5, 0.7)])
def test_normaliser_is_that_of_an_adaptive_quadrature(potential: Potential, bounds: Bounds) -> None:
    left, right, bottom, top = bounds
    paper = _paper(potential.name)
    nodes, weights = np.polynomial.legendre.leggauss(120)
    x = 0.5 * (left + right) + 0.5 * (right - left) * nodes
    strips = [
        scipy.integrate.quad(lambda b, a=a: math.exp(-paper(a, b)), bottom, top, points=[0])[0]
        for a in x.tolist()
    ]
    expected = math.log(float(np.dot(weights, strips)) * 0.5 * (right - left))
    assert log_normalizer(potential, bounds) == pytest.approx(expected, abs=1e-6)


@each_potential
def test_the_whole_plane_holds_a_little_more_than_the_square(potential: Potential) -> None:
    whole, square = log_normalizer(potential), log_normalizer(potential, potential.bounds)
    wider = log_normalizer(potential, (-10, 10, -12, 10))
    assert whole == pytest.approx(wider, abs=1e-6)
    assert 0 < whole - square < (0.15 if potential.confined else 1e-7)


@pytest.mark.parametrize("bounds", [(1.0, 1.0, 0.0, 1.0), (0.0, 1.0, 2.0, 1.0), (0.0, 1e999, 0, 1)])
def test_a_rectangle_without_an_inside_is_refused(bounds: Bounds) -> None:
    with pytest.raises(InputError, match=r"`bounds`: given .*; expected finite left < right"):
        log_normalizer(POTENTIALS["u1"], bounds)


def test_what_is_no_point_is_refused() -> None:
    with pytest.raises(InputError, match=r"`z`: given torch.float32 of shape \(4, 3\)"):
        POTENTIALS["u1"].log_density(torch.zeros(4, 3))
