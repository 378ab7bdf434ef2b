"""SemilinearField: its formula, its start as a rotation, its gradients."""

import math

import pytest
import torch
from torch import nn

import isocline as ic
from isocline.nn import SemilinearField

DTYPE = torch.float64


def stirred(dim: int = 3, hidden: int = 4) -> SemilinearField:
    field = SemilinearField(dim, hidden).to(DTYPE)
    for parameter in field.parameters():
        nn.init.normal_(parameter, std=0.5)
    return field


@torch.no_grad()
def test_the_formula() -> None:
    field, y = stirred(), torch.randn(2, 5, 3, dtype=DTYPE)
    inner, _, outer = field.bounded
    bounded = torch.tanh(y @ inner.weight.T + inner.bias) @ outer.weight.T + outer.bias
    torch.testing.assert_close(field(torch.tensor(0.0), y), y @ field.linear.weight.T + bounded)
    torch.testing.assert_close(field(torch.tensor(9.0), y), field(torch.tensor(0.0), y))
    linear = SemilinearField(3, 0).to(DTYPE)
    assert linear.bounded is None
    torch.testing.assert_close(linear(torch.tensor(0.0), y), y @ linear.linear.weight.T)


@pytest.mark.parametrize("hidden", [0, 6])
def test_it_starts_as_a_rotation(hidden: int) -> None:
    """A is skew-symmetric and W is 0: the length of the state is kept."""
    field, y = SemilinearField(4, hidden, speed=2.0).to(DTYPE), torch.randn(7, 4, dtype=DTYPE)
    with torch.no_grad():
        A = field.linear.weight
        assert torch.equal(A, -A.T)
        end = ic.solve(field, y, 0.0, 3.0, rtol=1e-9, atol=1e-9).ys[-1]
        torch.testing.assert_close(end, y @ torch.linalg.matrix_exp(3.0 * A).T)
        torch.testing.assert_close(end.norm(dim=1), y.norm(dim=1))


@pytest.mark.parametrize("dim", [4, 7, 60])
def test_the_frequencies_are_about_the_speed(dim: int) -> None:
    A = SemilinearField(dim, 0, speed=3.0).linear.weight.detach().to(DTYPE)
    frequencies = torch.linalg.eigvals(A).imag.sort().values
    turning = frequencies[frequencies > 1e-5]
    assert len(turning) == dim // 2
    assert float(turning.min()) >= 1.5 - 1e-5
    assert float(turning.max()) <= 4.5 + 1e-5
    assert not bool(SemilinearField(5, speed=0.0).linear.weight.any())


def test_far_away_the_linear_part_is_what_is_left() -> None:
    field = stirred()
    y = torch.randn(6, 3, dtype=DTYPE)
    with torch.no_grad():
        bound = field.bounded[2].weight.abs().sum(1) + field.bounded[2].bias.abs()
        apart = field(torch.tensor(0.0), 1e6 * y) - 1e6 * y @ field.linear.weight.T
    assert bool((apart.abs() <= bound + 1e-6).all())


def test_every_parameter_learns_once_the_last_layer_moved() -> None:
    field, y = stirred(), torch.randn(4, 3, dtype=DTYPE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: field(torch.tensor(math.pi), y), y)
    ic.solve(field, y, 0.0, 1.0).ys[-1].square().sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in field.parameters())
    fresh = SemilinearField(3, 4).to(DTYPE)
    ic.solve(fresh, y, 0.0, 1.0).ys[-1].square().sum().backward()
    assert bool(fresh.bounded[2].weight.grad.any()), "it leaves 0 at the first step"
