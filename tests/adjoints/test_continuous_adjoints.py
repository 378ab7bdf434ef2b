"""Backsolve and Interpolated: convergence, cost, drift, checkpoints, quadrature.

Of products of options the quick suite runs every pair (`pairwise`).
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isocline as ic
from isocline.adjoints.path import Path, lagrange, nodal_values
from isocline.adjoints.quadrature import gauss_legendre

from .adjoint_cases import ADJOINTS, CONTINUOUS, FEW, mismatches, weights_like

MATRIX = torch.tensor([[-0.3, 1.1, 0.2], [-0.9, -0.1, 0.5], [0.4, 0.3, -0.8]], dtype=torch.float64)
START = torch.tensor([1.0, -0.5, 0.8], dtype=torch.float64)
KINDS = {"backsolve": ic.Backsolve(), "interpolated": ic.Interpolated()}
BOTH = pytest.mark.parametrize("name", KINDS)


def relative(found: Tensor, want: Tensor) -> float:
    return float(torch.linalg.vector_norm(found - want) / torch.linalg.vector_norm(want))


def double(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


# --- right, and ever more so -------------------------------------------------------------------


def bent(outputs: int, adjoint: Any, **options: Any) -> Tensor:
    """The gradient of a loss on some outputs of a nonlinear system, to its start and matrix."""
    matrix, y0 = MATRIX.clone().requires_grad_(), START.clone().requires_grad_()
    ts = torch.linspace(0, 3, outputs, dtype=torch.float64)[1:]
    ys = ic.solve(
        lambda t, y: 1.5 * (matrix @ y).sin(), y0, 0.0, 3.0,
        save=ic.SaveAt(ts=ts), adjoint=adjoint, **options,
    ).ys  # fmt: skip
    found = torch.autograd.grad((weights_like(ys) * ys).sum(), [y0, matrix])
    return torch.cat([gradient.reshape(-1) for gradient in found])


@functools.cache
def bent_exactly(outputs: int) -> Tensor:
    return bent(outputs, ic.Direct(), solver="vern9", rtol=1e-11, atol=1e-11)


@pytest.mark.pairwise
@pytest.mark.parametrize("outputs", [2, 41])
@pytest.mark.parametrize("method", ["tsit5", "vern7"])
@BOTH
def test_the_error_falls_with_the_tolerance(name: str, method: str, outputs: int) -> None:
    """By as much, also where all outputs but the last lie inside of reverse steps."""
    exact = bent_exactly(outputs)
    exponents = torch.tensor([3.0, 5.0, 7.0], dtype=torch.float64)
    errors = [
        relative(bent(outputs, KINDS[name], solver=method, rtol=tol, atol=tol), exact)
        for tol in (10.0**-exponents).tolist()
    ]
    rise = -torch.tensor(errors, dtype=torch.float64).log10()
    centred = exponents - exponents.mean()
    assert float(centred @ rise / centred.square().sum()) >= 0.8
    assert errors[-1] < 1e-5


@pytest.mark.parametrize("span", [(0.0, 1.5), (1.5, 0.0)], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", [*FEW, "seminorm", "backsolve_checkpoints"])
def test_linear_systems_to_ten_digits(name: str, span: tuple[float, float]) -> None:
    """Against the matrix exponential, with outputs on the way: to y0, the matrix, t0, ts and t1."""
    y0, matrix = START.clone().requires_grad_(), MATRIX.clone().requires_grad_()
    t0, t1 = (torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in span)
    ts = torch.linspace(*span, 12, dtype=torch.float64)[1:-1].requires_grad_()
    inputs = {"y0": y0, "A": matrix, "t0": t0, "t1": t1, "ts": ts}
    exact = torch.stack([torch.linalg.matrix_exp(matrix * (t - t0)) @ y0 for t in [*ts, t1]])
    weights = weights_like(exact)
    want = torch.autograd.grad((weights * exact).sum(), list(inputs.values()))
    ys = ic.solve(
        lambda t, y: matrix @ y, y0, t0, t1, save=ic.SaveAt(ts=ts, t1=True),
        adjoint=ADJOINTS[name], solver="vern9", rtol=1e-13, atol=1e-14,
    ).ys  # fmt: skip
    found = torch.autograd.grad((weights * ys).sum(), list(inputs.values()))
    pairs = [dict(zip(inputs, values, strict=True)) for values in (found, want)]
    # The time gradients of the exact adjoints are those of the interpolant, an order below.
    if name not in CONTINUOUS:
        for pair in pairs:
            pair.pop("ts")
    assert not mismatches(*pairs, 1e-10)


@pytest.mark.parametrize("ends", [(0.0, 1.2), (1.2, 0.0)], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_outputs_wherever_they_fall(name: str, ends: tuple[float, float]) -> None:
    """Twice at one time, at both ends, at ends of reverse steps, a hair beside them; some unused.

    The loss falls on four rows; the rest are known states without a cotangent.
    """
    inside = [0.3, 0.3, 0.6, math.nextafter(0.6, 1), 0.8, 0.8, 1.0]
    ts = [0.0, *inside, 1.2] if ends[0] == 0 else [1.2, *inside[::-1], 0.0]

    def found(adjoint: Any) -> dict[str, Tensor | None]:
        y0, w = double(0.8, -0.3), double(0.7, 1.1)
        ys = ic.solve(
            lambda t, y: (w * y.flip(0)).sin() - t * y, y0, *ends, solver="dop853",
            rtol=1e-11, atol=1e-11, save=ic.SaveAt(t0=True, ts=ts, t1=True), adjoint=adjoint,
            controller=ic.PID(stops=(0.3, 0.6)),
        ).ys  # fmt: skip
        weights = weights_like(ys)
        weights[1::3] = 0
        gradients = torch.autograd.grad((weights * ys.sin()).sum(), [y0, w])
        return dict(zip(("y0", "w"), gradients, strict=True))

    assert not mismatches(found(CONTINUOUS[name]), found(ic.Direct()), 1e-7)


@pytest.mark.parametrize("method", ["adams", ic.ALF(), ic.Reversible("dopri5")], ids=str)
@BOTH
def test_methods_with_a_memory_stop_at_outputs(name: str, method: Any) -> None:
    """Their memory would not outlive a jump of the state."""
    exact = bent_exactly(5)
    found = bent(5, KINDS[name], solver=method, rtol=1e-4, atol=1e-4)
    assert relative(found, exact) < 1e-2


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_field_that_differentiates_by_itself(name: str) -> None:
    """The gradient flow of a potential, whose gradient autograd finds inside the field."""

    def found(adjoint: Any) -> dict[str, Tensor | None]:
        y0, w = double(0.8, -0.3), double([0.7, 1.1], [0.3, -0.4])

        def field(t: Tensor, y: Tensor) -> Tensor:
            with torch.enable_grad():
                x = y if y.requires_grad else y.detach().requires_grad_()
                (slope,) = torch.autograd.grad((w @ x).cos().sum(), x, create_graph=True)
            return slope

        save = ic.SaveAt(ts=[0.2, 0.5, 0.9], t1=True)
        ys = ic.solve(
            field, y0, 0.0, 1.0, save=save, adjoint=adjoint, solver="dop853", rtol=1e-9, atol=1e-9
        ).ys
        gradients = torch.autograd.grad(ys.square().sum(), [y0, w])
        return dict(zip(("y0", "w"), gradients, strict=True))

    assert not mismatches(found(CONTINUOUS[name]), found(ic.Direct()), 1e-6)


# --- cost --------------------------------------------------------------------------------------


def backward_evaluations(outputs: int, adjoint: Any, solver: Any = "tsit5") -> int:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    y0 = torch.tensor([[2.0, 0.0]], requires_grad=True)
    ts = torch.linspace(0, 5, outputs)
    solution = ic.solve(
        lambda t, y: net(y), y0, 0.0, 5.0, save=ic.SaveAt(ts=ts), adjoint=adjoint, solver=solver,
        rtol=1e-6, atol=1e-6,
    )  # fmt: skip
    solution.ys.square().mean().backward()
    return solution.stats.nfe_backward


@BOTH
def test_many_outputs_cost_no_more_than_each_step_once_more(name: str) -> None:
    """Restarting at each of a hundred would cost seven evaluations for each, or more."""
    few, many = (backward_evaluations(outputs, KINDS[name]) for outputs in (2, 101))
    assert many <= 2.5 * few
    assert many < 200


def test_without_a_cotangent_an_output_costs_little() -> None:
    """One row is looked at: the rest put y right, and no step is taken once more for them."""

    def count(outputs: int) -> int:
        y0, w = double(1.0, 0.3), double(0.9)
        save = ic.SaveAt(ts=torch.linspace(0, 4, outputs)[1:])
        found = ic.solve(
            lambda t, y: (w * y.flip(0)).cos() - y, y0, 0.0, 4.0, save=save,
            adjoint=ic.Backsolve(),
        )  # fmt: skip
        found.ys[-1].sum().backward()
        return found.stats.nfe_backward

    assert count(41) <= 1.3 * count(2)


def test_the_seminorm_saves_steps() -> None:
    def count(seminorm: bool) -> int:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 200), nn.Tanh(), nn.Linear(200, 2)).double()
        solution = ic.solve(
            lambda t, y: net(y) * torch.sin(9 * t), torch.ones(1, 2).double(), 0.0, 1.0,
            rtol=1e-6, atol=1e-8, adjoint=ic.Backsolve(seminorm=seminorm),
        )  # fmt: skip
        (1e3 * solution.ys).sum().backward()
        return solution.stats.nfe_backward

    assert count(True) < 0.9 * count(False)


# --- drift -------------------------------------------------------------------------------------


def cubic(value: float, adjoint: Any, tolerance: float, **options: Any) -> tuple[Tensor, Tensor]:
    """Gradients of y(5) for dy/dt = -rate y^3, y(0) = 1: found, and exact."""
    pairs = []
    for solved in (True, False):
        y0, rate = double(1.0), double(value)
        if solved:
            end = ic.solve(
                lambda t, y, rate=rate: -rate * y**3, y0, 0.0, 5.0,
                rtol=tolerance, atol=tolerance, adjoint=adjoint, **options,
            ).ys[-1]  # fmt: skip
        else:
            end = y0 * (1 + 10 * rate * y0**2) ** -0.5
        pairs.append(torch.cat(torch.autograd.grad(end.sum(), [y0, rate])))
    return pairs[0], pairs[1]


@pytest.mark.parametrize("tolerance", [1e-5, 1e-7, 1e-9])
def test_a_drift_is_told_with_its_size(tolerance: float) -> None:
    with pytest.warns(ic.GradientWarning, match=r"t = 0 .* \d\S* times its tolerance") as caught:
        found, exact = cubic(100.0, ic.Backsolve(), tolerance)
    assert len(caught) == 1
    assert "checkpoints" in str(caught[0].message)
    assert relative(found, exact) > 1e3 * tolerance


def test_a_drift_is_told_for_steps_of_constant_length() -> None:
    """Where there is no tolerance, it is measured by the size of the state."""
    y0 = double(1.0)
    end = ic.solve(
        lambda t, y: -4 * y + 0.01 * torch.cos(t), y0, 0.0, 5.0, solver="rk4", dt0=0.1,
        adjoint=ic.Backsolve(),
    ).ys  # fmt: skip
    with pytest.warns(ic.GradientWarning, match=r"% of its size"):
        end.sum().backward()


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_a_contracting_flow_is_told(tolerance: float) -> None:
    y0 = double(1.0, 2.0)
    end = ic.solve(
        lambda t, y: -20 * y, y0, 0.0, 5.0, rtol=tolerance, atol=tolerance, adjoint=ic.Backsolve()
    ).ys
    with pytest.warns(ic.GradientWarning):
        end.sum().backward()


def lotka_volterra(t: Tensor, y: Tensor, p: Tensor) -> Tensor:
    return torch.stack([p * y[0] - y[0] * y[1], y[0] * y[1] - y[1]])


WELL_BEHAVED: dict[str, tuple[Any, list[float], float]] = {
    "lotka_volterra": (lotka_volterra, [1.0, 1.5], 20.0),
    "pendulum": (lambda t, y, p: torch.stack([y[1], -p * y[0].sin()]), [1.5, 0.0], 20.0),
    "damped": (lambda t, y, p: torch.stack([y[1], -p * y[0] - 0.3 * y[1]]), [1.5, 0.0], 10.0),
    "decay": (lambda t, y, p: -p * y, [1.0, 0.5], 5.0),
    "growth": (lambda t, y, p: p * y, [1.0, 0.5], 5.0),
    "forced": (lambda t, y, p: torch.sin(3 * t) * y.flip(0) - p * y**2, [0.8, 0.3], 5.0),
}


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("problem", WELL_BEHAVED)
def test_no_alarm_on_problems_that_behave(problem: str, tolerance: float) -> None:
    """Warnings are errors here."""
    field, start, end = WELL_BEHAVED[problem]
    y0, p = double(*start), torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    solution = ic.solve(
        field, y0, 0.0, end, args=(p,), rtol=tolerance, atol=tolerance, adjoint=ic.Backsolve()
    )
    solution.ys.sum().backward()


@pytest.mark.parametrize("solver", ["tsit5", "adams", "lsoda"])
def test_checkpoints_cure_a_drift(solver: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plain, exact = cubic(100.0, ic.Backsolve(), 1e-7, solver=solver)
    assert [one.category for one in caught] == [ic.GradientWarning]
    found, _ = cubic(100.0, ic.Backsolve(checkpoints=30), 1e-7, solver=solver)
    assert relative(found, exact) < 0.05 * relative(plain, exact)


@pytest.mark.parametrize("outputs", [7, 60])
def test_outputs_put_the_state_right(outputs: int) -> None:
    """y' = -8 y + forcing grows by exp(40) in reverse, where nothing is known on the way."""
    exact, found = (
        torch.autograd.grad(
            ic.solve(
                lambda t, y, w=w: -8 * y + torch.sin(w * t), torch.ones(1).double(), 0.0, 5.0,
                save=ic.SaveAt(ts=torch.linspace(0, 5, outputs)), adjoint=adjoint,
                rtol=1e-6, atol=1e-6,
            ).ys.square().sum(), w,
        )[0]
        for adjoint in (ic.Direct(), ic.Backsolve())
        for w in [double(1.7)]
    )  # fmt: skip
    assert relative(found, exact) < 1e-3


@pytest.mark.parametrize("count", [-1, 1.5, True, "3"])
def test_checkpoints_are_a_number_of_states(count: Any) -> None:
    with pytest.raises(ic.InputError, match="checkpoints"):
        ic.Backsolve(checkpoints=count)


# --- Interpolated ------------------------------------------------------------------------------


def test_a_contracting_flow_is_no_matter_to_interpolated() -> None:
    found, exact = cubic(100.0, ic.Interpolated(), 1e-7)
    discrete, _ = cubic(100.0, ic.Checkpointed(), 1e-7)
    assert relative(found, exact) < 10 * relative(discrete, exact)


@pytest.mark.parametrize("count", range(1, 8))
def test_gauss_legendre_is_exact_to_its_degree(count: int) -> None:
    nodes, weights = gauss_legendre(count)

    def integral(degree: int) -> float:
        return sum(w * x**degree for x, w in zip(nodes, weights, strict=True))

    for degree in range(2 * count):
        assert integral(degree) == pytest.approx(1 / (degree + 1), rel=1e-13)
    assert abs(integral(2 * count) - 1 / (2 * count + 1)) > 1e-9


def test_the_integral_resolves_what_the_forward_solve_did() -> None:
    """The adjoint is constant, its steps are as long as they may be, and the integrand is fast."""
    p = double(0.0)
    end = ic.solve(
        lambda t, y: torch.cos(30 * t + p), torch.zeros(1).double(), 0.0, 1.3,
        rtol=1e-8, atol=1e-8, adjoint=ic.Interpolated(),
    ).ys  # fmt: skip
    (found,) = torch.autograd.grad(end.sum(), p)
    assert found.item() == pytest.approx((math.cos(39.0) - 1) / 30, abs=1e-7)


@pytest.mark.parametrize("method", ["euler", "bosh3", "tsit5", "dop853", "vern9", "adams"])
def test_a_path_is_the_continuous_solution(method: str) -> None:
    options: dict[str, Any] = {"dt0": 0.1} if method == "euler" else {"rtol": 1e-7, "atol": 1e-7}
    with torch.no_grad():
        solution = ic.solve(
            lambda t, y: y.flip(0).sin() - t * y, START, 0.2, 1.7,
            save=ic.SaveAt(dense=True), solver=method, **options,
        )  # fmt: skip
    dense = solution.dense
    assert dense is not None
    values = nodal_values(list(dense.pieces), list(dense.ends))
    path = Path(0.2, list(dense.ends), values)
    times = torch.linspace(0.2, 1.7, 37, dtype=torch.float64)
    found = torch.stack([path.at(t) for t in times])
    torch.testing.assert_close(found, solution(times), rtol=1e-11, atol=1e-12)
    flat = torch.tensor(path.times, dtype=torch.float64)
    torch.testing.assert_close(values.flatten(0, 1), solution(flat), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("degree", [1, 2, 5, 9])
def test_the_basis_is_one_at_its_own_node_alone(degree: int) -> None:
    nodes, weights = lagrange(degree)
    powers = nodes[:, None] * (nodes[:, None] - 0.5) ** torch.arange(degree)
    want = torch.eye(degree + 1, dtype=torch.float64)[:, 1:]
    torch.testing.assert_close(powers @ weights.t(), want, rtol=0, atol=1e-11)


def test_interpolated_takes_a_black_box_that_shows_its_steps() -> None:
    found = bent(11, ic.Interpolated(solver="tsit5"), solver="lsoda", rtol=1e-9, atol=1e-9)
    exact = bent(11, ic.Direct(), solver="dop853", rtol=1e-12, atol=1e-12)
    assert relative(found, exact) < 1e-6


@pytest.mark.parametrize("reverse", [None, "lsoda"])
def test_interpolated_wants_a_method_with_steps(reverse: str | None) -> None:
    with pytest.raises(ic.GradientError, match=r"black box.*solver=\"tsit5\""):
        bent(2, ic.Interpolated(solver=reverse), solver="lsoda")
