"""GMRES and Newton's method by themselves."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isocline.solvers.implicit.krylov import gmres
from isocline.solvers.implicit.newton import Means, relaxed, solve

DTYPE = torch.float64


@given(seed=st.integers(0, 10_000), size=st.integers(1, 12))
@settings(max_examples=30)
def test_gmres_solves_any_system_in_as_many_products_as_it_has_rows(seed: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(size, size, generator=generator, dtype=DTYPE) + 4 * torch.eye(size)
    right = torch.randn(1, size, generator=generator, dtype=DTYPE)
    products = 0

    def product(v: Tensor) -> Tensor:
        nonlocal products
        products += 1
        assert v.shape == right.shape
        return v @ matrix.T

    found = gmres(product, right, 1e-13, 100)
    exact = torch.linalg.solve(matrix, right[0])
    error = torch.linalg.vector_norm(found[0] - exact) / torch.linalg.vector_norm(exact)
    assert error < 1e-12 * torch.linalg.cond(matrix)
    assert products <= size


def test_gmres_stops_at_the_accuracy_asked_for_and_at_the_limit() -> None:
    matrix = torch.diag(torch.linspace(1, 2, 50, dtype=DTYPE))
    right = torch.ones(50, dtype=DTYPE)
    calls: list[Tensor] = []

    def product(v: Tensor) -> Tensor:
        calls.append(v)
        return matrix @ v

    def residual(found: Tensor) -> float:
        return float((matrix @ found - right).norm() / right.norm())

    for accuracy in (1e-2, 1e-6, 1e-10):
        calls.clear()
        assert residual(gmres(product, right, accuracy, 50)) <= accuracy * (1 + 1e-9)
        fewer = residual(gmres(product, right, 0.0, len(calls) - 1))
        assert fewer > accuracy
    assert torch.equal(gmres(product, 0 * right, 1e-3, 50), 0 * right)


def test_gmres_on_systems_without_an_answer() -> None:
    right = torch.tensor([1.0, 1.0], dtype=DTYPE)
    flat = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=DTYPE)
    least = gmres(lambda v: flat @ v, right, 1e-12, 10)
    torch.testing.assert_close(flat @ least, torch.tensor([1.0, 0.0], dtype=DTYPE))
    assert torch.equal(gmres(lambda v: 0 * v, right, 1e-12, 10), 0 * right)
    assert gmres(lambda v: v * math.nan, right, 1e-12, 10).isnan().all()


class Scalar:
    """One equation g(x) = 0 with its derivative, or with a wrong one."""

    linear = False
    price = 1.0

    def __init__(self, g: object, slope: object, ladder: tuple[Means, ...]) -> None:
        self.g, self.slope, self.ladder = g, slope, ladder
        self.calls = 0
        self.at = torch.zeros(())
        self.matrix = torch.ones(())

    def residual(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.at = x
        return -self.g(x)  # type: ignore[operator]

    def refresh(self, shift: float = 0.0) -> None:
        self.matrix = self.slope(self.at) + shift  # type: ignore[operator]

    def preconditioned(self, residual: Tensor) -> Tensor:
        return residual / self.matrix

    def krylov(self, residual: Tensor) -> Tensor:
        with torch.enable_grad():
            x = self.at.clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.g(x), x)  # type: ignore[operator]
        return residual / slope

    def measure(self, correction: Tensor, x: Tensor) -> tuple[float, float]:
        return abs(correction.item()), abs(correction.item()) / max(abs(x.item()), 1e-300)


DIRECT = (Means.MATRIX, Means.BOTH)
LADDERS = pytest.mark.parametrize(
    "ladder",
    [DIRECT, (Means.PLAIN, Means.KRYLOV), (Means.PLAIN, Means.KRYLOV, *DIRECT)],
    ids=["matrix", "krylov", "both"],
)


def arctangent(x: Tensor) -> Tensor:
    return torch.atan(4 * (x - 3.0))


@LADDERS
def test_a_function_that_newton_overshoots_is_damped(ladder: tuple[Means, ...]) -> None:
    system = Scalar(arctangent, lambda x: 4 / (1 + 16 * (x - 3) ** 2), ladder)
    found = solve(system, torch.tensor(5.0, dtype=DTYPE), 1e-15, 1e-8)
    assert found.converged
    assert found.x.item() == pytest.approx(3, abs=4e-15)


def test_a_jacobian_that_is_wrong_gives_way_to_krylov() -> None:
    system = Scalar(lambda x: x**3 - 8, lambda x: 0.3 * x**2, DIRECT)
    found = solve(system, torch.tensor(4.0, dtype=DTYPE), 1e-15, 1e-8)
    assert found.converged
    assert found.x.item() == pytest.approx(2, abs=1e-15)


@LADDERS
def test_no_root_is_no_solution(ladder: tuple[Means, ...]) -> None:
    system = Scalar(lambda x: 1 + x**2, lambda x: 2 * x, ladder)
    assert not solve(system, torch.tensor(0.7, dtype=DTYPE), 1e-15, 1e-8).converged
    assert system.calls < 300


def test_rounding_of_the_equations_is_accepted_only_where_it_is_small() -> None:
    def noisy(size: float) -> Scalar:
        return Scalar(
            lambda x: x - 2 + torch.where(x > 2, size, -size), lambda x: 1 + 0 * x, DIRECT
        )

    start = torch.tensor(1.0, dtype=DTYPE)
    assert solve(noisy(1e-11), start, 1e-15, 1e-8).converged
    assert not solve(noisy(1e-4), start, 1e-15, 1e-8).converged


def test_relaxation_finds_the_stable_root_behind_a_fold() -> None:
    """x - 1.17 sin x = -0.232 from 0.5: downhill there is a fold first, and no root."""
    g = lambda x: x - 1.169 * torch.sin(x) + 0.2321  # noqa: E731
    system = Scalar(g, lambda x: 1 - 1.169 * torch.cos(x), DIRECT)
    near = relaxed(system, torch.tensor(0.5, dtype=DTYPE))
    assert abs(g(near).item()) < 1e-3
    found = solve(system, near, 1e-15, 1e-8)
    assert found.converged
    assert found.x.item() < -1
