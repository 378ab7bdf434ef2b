"""Tuple states, tolerances for each entry, and what a field may return for them."""

import math
from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor

from isocline.torchdiffeq import SOLVERS, odeint, odeint_adjoint, odeint_dense

from ..known import swing, swung

T = torch.linspace(0.0, 1.0, 4, dtype=torch.float64)
ONE, TWO = swung(0.0), torch.tensor([[0.3, -1.0], [2.0, 0.5]], dtype=torch.float64)


def both(t: Tensor, y: Any) -> Any:
    return swing(t, y[0]), swing(t, y[1])


@pytest.mark.parametrize("method", SOLVERS)
def test_a_tuple_is_solved_as_its_entries_are(method: str) -> None:
    first, second = odeint(both, (ONE, TWO), T, rtol=1e-6, atol=1e-6, method=method)
    assert first.shape == (4, 2)
    assert second.shape == (4, 2, 2)
    assert torch.equal(first[0], ONE)
    assert torch.equal(second[0], TWO)
    if method not in ("euler", "implicit_euler", "fehlberg2"):
        assert (first - swung(T)).abs().max() < 5e-2
        for row in range(2):
            assert (second[:, row] - swung(T, TWO[row])).abs().max() < 5e-2


ANSWERS = {
    "a list": lambda t, y: list(both(t, y)),
    "a generator": lambda t, y: (slope for slope in both(t, y)),
    "flat entries": lambda t, y: tuple(slope.reshape(-1) for slope in both(t, y)),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("solve", [odeint, odeint_adjoint])
def test_a_field_may_answer_with(answer: str, solve: Any) -> None:
    found = solve(ANSWERS[answer], (ONE, TWO), T)
    expected = odeint(both, (ONE, TWO), T)
    assert all(map(torch.equal, found, expected))


def test_a_slope_may_have_another_shape_of_as_many_elements() -> None:
    y0 = torch.tensor([1.0, 2.0])
    t = torch.tensor([0.0, 1.0])
    found = odeint(lambda t, y: -y.reshape(1, 2), y0, t)
    assert torch.equal(found, odeint(lambda t, y: -y, y0, t))
    scalar = odeint(lambda t, y: torch.ones(1), torch.tensor(1.0), t)
    assert scalar.tolist() == pytest.approx([1.0, 2.0])


def test_a_slope_may_be_of_another_dtype() -> None:
    y0, t = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])
    found = odeint(lambda t, y: -y.double(), y0, t)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[1], y0 * math.exp(-1.0))


def test_a_named_tuple_is_a_tuple() -> None:
    Pair = namedtuple("Pair", ["near", "far"])
    found = odeint(lambda t, y: (swing(t, y[0]), swing(t, y[1])), Pair(ONE, TWO), T)
    assert all(map(torch.equal, found, odeint(both, (ONE, TWO), T)))


def test_a_tuple_of_one() -> None:
    (found,) = odeint(lambda t, y: (swing(t, y[0]),), (ONE,), T)
    assert (found - swung(T)).abs().max() < 1e-6


TOLERANCES: dict[str, Any] = {
    "numbers": (1e-3, 1e-9),
    "a list": [1e-3, 1e-9],
    "tensors": (torch.tensor(1e-3), torch.tensor(1e-9)),
    "one tensor": torch.tensor([1e-3, 1e-9], dtype=torch.float64),
    "one for each element": (torch.full((2,), 1e-3), torch.full((4,), 1e-9)),
}


@pytest.mark.parametrize("name", TOLERANCES)
def test_each_entry_may_have_a_tolerance_of_its_own(name: str) -> None:
    """One tight entry makes the steps as short as tightness throughout."""
    tolerance = TOLERANCES[name]
    _, second = odeint(both, (ONE, TWO), T, rtol=tolerance, atol=tolerance)
    loose, _ = odeint(both, (ONE, TWO), T, rtol=1e-3, atol=1e-3)
    assert (second[:, 0] - swung(T, TWO[0])).abs().max() < 3e-8
    assert (loose - swung(T)).abs().max() > 1e-7


def test_a_tolerance_for_each_element_of_a_tensor() -> None:
    tight = torch.tensor([1e-9, 1e3], dtype=torch.float64)
    found = odeint(swing, ONE, T, rtol=tight, atol=tight)
    assert (found - swung(T)).abs().max() < 3e-7


@pytest.mark.parametrize("solve", [odeint, odeint_adjoint])
def test_tolerances_by_entry_in_the_backward_pass(solve: Any) -> None:
    """torchdiffeq's adjoint breaks on them."""
    y0 = (ONE.clone().requires_grad_(), TWO.clone().requires_grad_())
    first, second = solve(both, y0, T, rtol=(1e-8, 1e-7), atol=(1e-8, 1e-7))
    (first[-1].sum() + second[-1].sum()).backward()
    # The flow is a rotation by sin t: its gradient turns (1, 1) back.
    c, s = math.cos(math.sin(1.0)), math.sin(math.sin(1.0))
    expected = torch.tensor([c - s, c + s], dtype=torch.float64)
    torch.testing.assert_close(y0[0].grad, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(y0[1].grad, expected.expand(2, 2), rtol=0, atol=1e-6)


# --- dense output ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", [None, "dopri8", "rk4"])
@pytest.mark.parametrize("way", [1, -1], ids=["rising", "falling"])
def test_dense_output(method: str | None, way: int) -> None:
    """At numbers, at tensors, at vectors, at both ends; torchdiffeq has it for dopri5 alone."""
    t0, t1 = (0.0, 2.0) if way > 0 else (2.0, 0.0)
    options = {"step_size": 0.02} if method == "rk4" else None
    for ends in ((t0, t1), (torch.tensor(t0), torch.tensor(t1))):
        solution = odeint_dense(swing, swung(t0), *ends, method=method, options=options)
        grid = torch.linspace(0, 2, 21, dtype=torch.float64)
        assert (solution(grid) - swung(grid)).abs().max() < 1e-6
        assert (solution(torch.tensor(0.7)) - swung(0.7)).abs().max() < 1e-6
        assert solution(0.7).shape == (2,)


def test_dense_output_of_a_tuple_and_its_gradient() -> None:
    y0 = (ONE.clone().requires_grad_(), TWO)
    solution = odeint_dense(both, y0, 0.0, 2.0)
    first, second = solution(torch.tensor(1.0))
    (gradient,) = torch.autograd.grad(first.sum(), y0[0])
    c, s = math.cos(math.sin(1.0)), math.sin(math.sin(1.0))
    assert gradient.tolist() == pytest.approx([c - s, c + s], abs=1e-6)
    assert second.shape == (2, 2)
