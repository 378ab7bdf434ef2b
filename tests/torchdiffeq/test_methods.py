"""Each method name does what it says: fixed-step ones have their order, adaptive ones hold it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from isocline.torchdiffeq import SOLVERS, odeint

from ..known import Watched, knotted, order_of, swing, swung, unknotted

ADAPTIVE = ("dopri8", "dopri5", "tsit5", "bosh3", "fehlberg2", "adaptive_heun")
ORDERS = {
    "euler": 1,
    "midpoint": 2,
    "heun2": 2,
    "heun3": 3,
    "rk4": 4,
    "explicit_adams": 4,
    "implicit_adams": 4,
    "fixed_adams": 4,
    "implicit_euler": 1,
    "implicit_midpoint": 2,
    "trapezoid": 2,
    "radauIIA3": 3,
    "gl4": 4,
    "radauIIA5": 5,
    "gl6": 6,
    "sdirk2": 2,
    "trbdf2": 2,
}
FIXED = tuple(ORDERS)


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_these_are_all() -> None:
    assert {*ADAPTIVE, *FIXED, "scipy_solver"} == set(SOLVERS)


def measured(solve: Callable[[int], Tensor], exact: Tensor, counts: list[int]) -> float:
    errors = [(solve(n) - exact).abs().max().item() for n in counts]
    assert errors[-1] > 1e-13
    return order_of(counts, errors, corrected=True)


# --- fixed steps -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", FIXED)
@pytest.mark.parametrize(
    "way", [1, pytest.param(-1, marks=pytest.mark.slow)], ids=["rising", "falling"]
)
def test_order_on_a_field_that_depends_on_time(method: str, way: int) -> None:
    t = times(0.3, 1.8) if way > 0 else times(1.8, 0.3)

    def solve(n: int) -> Tensor:
        options = {"step_size": 1.5 / n}
        return odeint(knotted, unknotted(t[0]), t, method=method, options=options)[1]

    counts = [6, 8, 11, 16, 22] if ORDERS[method] >= 5 else [12, 16, 22, 32]
    order = measured(solve, unknotted(t[1]), counts)
    assert order == pytest.approx(ORDERS[method], abs=0.3)


@pytest.mark.parametrize("method", FIXED)
def test_the_output_times_are_the_steps_by_default(method: str) -> None:
    t = times(0.0, 0.1, 0.15, 0.4)
    field = Watched(swing)
    steps: list[tuple[float, float]] = []
    field.callback_step = lambda t0, y0, dt: steps.append((t0.item(), dt.item()))  # type: ignore[attr-defined]
    with torch.no_grad():
        odeint(field, torch.ones(2, dtype=torch.float64), t, method=method)
    starts, lengths = zip(*steps, strict=True)
    assert starts == (0.0, 0.1, 0.15)
    assert lengths == pytest.approx((0.1, 0.05, 0.25))
    assert min(field.values) >= 0.0
    assert max(field.values) <= 0.4


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "heun3", "rk4"])
def test_known_steps(method: str) -> None:
    """One step of y' = t y from y(1) = 2 over h = 1/2, computed by hand from the tables."""
    h, y = 0.5, 2.0

    def f(t: float, y: float) -> float:
        return t * y

    k1 = f(1.0, y)
    if method == "euler":
        expected = y + h * k1
    elif method == "midpoint":
        expected = y + h * f(1.0 + h / 2, y + h / 2 * k1)
    elif method == "heun2":
        expected = y + h / 2 * (k1 + f(1.0 + h, y + h * k1))
    elif method == "heun3":
        k2 = f(1.0 + h / 3, y + h / 3 * k1)
        expected = y + h / 4 * (k1 + 3 * f(1.0 + 2 * h / 3, y + 2 * h / 3 * k2))
    else:  # the 3/8 rule
        k2 = f(1.0 + h / 3, y + h / 3 * k1)
        k3 = f(1.0 + 2 * h / 3, y + h * (k2 - k1 / 3))
        k4 = f(1.0 + h, y + h * (k1 - k2 + k3))
        expected = y + h / 8 * (k1 + 3 * k2 + 3 * k3 + k4)
    found = odeint(lambda t, y: t * y, times(y), times(1.0, 1.5), method=method)[1]
    assert found.item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("method", ["rk4", "gl4", "radauIIA5", "explicit_adams"])
def test_output_between_steps_is_not_of_order_one(method: str) -> None:
    """Where torchdiffeq draws straight lines between steps."""
    t = torch.linspace(0, 3, 50, dtype=torch.float64)
    for interp in ("linear", "cubic"):
        options = {"step_size": 0.05, "interp": interp}
        found = odeint(swing, swung(0.0), t, method=method, options=options)
        assert (found - swung(t)).abs().max() < 5e-5  # straight lines miss by 4e-4


@pytest.mark.parametrize("method", ["implicit_euler", "trapezoid", "radauIIA5", "trbdf2"])
def test_implicit_methods_take_stiff_problems_in_long_steps(method: str) -> None:
    """y' = -1000 (y - cos t): explicit methods of this step go beyond all bounds."""
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    found = odeint(lambda t, y: -1000 * (y - torch.cos(t)), times(1.0), t, method=method)
    assert (found[:, 0] - t.cos()).abs().max() < 2e-3
    assert odeint(lambda t, y: -1000 * y, times(1.0), t, method="rk4")[-1].abs() > 1e10


# --- adaptive steps --------------------------------------------------------------------------


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("way", [1, -1], ids=["rising", "falling"])
def test_the_tolerance_is_held_at_the_end_and_on_a_grid(method: str, way: int) -> None:
    t = torch.linspace(0, 3, 31, dtype=torch.float64)
    t = t if way > 0 else t.flip(0)
    tolerances = (1e-4, 1e-6) if method in ("fehlberg2", "adaptive_heun") else (1e-5, 1e-8)
    # Fehlberg's first-order companion is close to its second-order one by design (the weight of
    # their difference is 1/512), so that the estimate says little of the latter's error.
    factor = 500 if method == "fehlberg2" else 50
    for tolerance in tolerances:
        y0 = swung(t[0])
        found = odeint(swing, y0, t, rtol=tolerance, atol=tolerance, method=method)
        worst = (found - swung(t)).abs().max().item()
        assert worst < factor * tolerance


@pytest.mark.parametrize("method", ["dopri8", "dopri5", "tsit5", "bosh3"])
def test_tight_tolerances_are_held_by_the_interpolant_too(method: str) -> None:
    """torchdiffeq has one interpolant of order 4 for all methods, and misses by thousands."""
    t = torch.linspace(0, 2, 41, dtype=torch.float64)
    tolerance = 1e-10 if method != "bosh3" else 1e-8
    found = odeint(swing, swung(0.0), t, rtol=tolerance, atol=tolerance, method=method)
    assert (found - swung(t)).abs().max() < 30 * tolerance


def test_tsit5_is_of_order_five() -> None:
    """torchdiffeq takes the weights of its error estimate for those of the solution: order 4."""

    def solve(n: int) -> Tensor:
        options = {"first_step": 1.5 / n, "max_step": 1.5 / n}
        loose = {"rtol": 1e3, "atol": 1e3}
        t = times(0.3, 1.8)
        return odeint(knotted, unknotted(0.3), t, method="tsit5", options=options, **loose)[1]

    assert measured(solve, unknotted(1.8), [16, 22, 32, 45]) > 4.7


@pytest.mark.parametrize("method", [*ADAPTIVE, "rk4", "scipy_solver"])
@pytest.mark.parametrize("way", [1, -1], ids=["rising", "falling"])
def test_the_field_is_never_called_outside_the_span(method: str, way: int) -> None:
    t = times(0.0, 0.3, 1.0) if way > 0 else times(1.0, 0.3, 0.0)
    field = Watched(lambda t, y: torch.sqrt(t * (1 - t)) - y)  # NaN outside
    loose = {"rtol": 1e-3, "atol": 1e-3}
    found = odeint(field, torch.ones(2, dtype=torch.float64), t, method=method, **loose)
    assert found.isfinite().all()
    assert min(field.values) >= 0.0
    assert max(field.values) <= 1.0


def test_a_hard_sample_does_not_hide_in_a_batch() -> None:
    """torchdiffeq averages the error over the batch."""

    def spread(t: Tensor, y: Tensor) -> Tensor:
        return torch.cat([8 * torch.cos(8 * t) * y[:1] ** 0, 0 * y[1:]])

    t = times(0.0, 2.0)
    y0 = torch.zeros(4096, 1, dtype=torch.float64)
    found = odeint(spread, y0, t, rtol=1e-6, atol=1e-6)[1, 0]
    assert abs(found.item() - math.sin(16.0)) < 2e-5


# --- what comes back -------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*ADAPTIVE, *FIXED, "scipy_solver"])
def test_shapes_dtypes_and_the_first_row(method: str) -> None:
    y0 = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.0, -1.0]])
    t = torch.linspace(0, 0.5, 4)
    found = odeint(lambda t, y: -y, y0, t, rtol=1e-4, atol=1e-4, method=method)
    assert found.shape == (4, 2, 3)
    assert found.dtype == torch.float32
    assert torch.equal(found[0], y0)
    assert torch.equal(odeint(lambda t, y: -y, y0, t[:1], method=method), y0[None])


def test_dopri5_is_the_default() -> None:
    y0, t = swung(0.0), times(0.0, 2.0)
    assert torch.equal(odeint(swing, y0, t), odeint(swing, y0, t, method="dopri5"))
    assert not torch.equal(odeint(swing, y0, t), odeint(swing, y0, t, method="tsit5"))


def test_times_may_be_less_precise_than_states_and_the_other_way_round() -> None:
    for y_dtype, t_dtype in ((torch.float64, torch.float32), (torch.float32, torch.float64)):
        field = Watched(lambda t, y: torch.cos(t) * torch.ones_like(y))
        t = torch.tensor([0.0, 0.7, 1.3], dtype=t_dtype)
        found = odeint(field, torch.zeros(2, dtype=y_dtype), t)
        assert {time.dtype for time in field.times} == {y_dtype}
        assert found.dtype == y_dtype
        torch.testing.assert_close(found[:, 0], t.sin().to(y_dtype), rtol=0, atol=1e-6)


def test_complex_states() -> None:
    y0 = torch.tensor([1.0 + 0.5j], dtype=torch.complex128)
    t = times(0.0, 2.0)
    for method in ("dopri5", "rk4", "implicit_midpoint"):
        options = {} if method == "dopri5" else {"step_size": 0.005}
        found = odeint(lambda t, y: 1j * y, y0, t, method=method, options=options)
        assert (found[1] - y0 * complex(math.cos(2), math.sin(2))).abs().max() < 1e-5


@pytest.mark.parametrize("solver", ["LSODA", "RK45", "RK23", "DOP853", "Radau", "BDF"])
def test_scipys_solvers(solver: str) -> None:
    t = torch.linspace(0, 2, 5, dtype=torch.float64)
    arguments: dict[str, Any] = {"method": "scipy_solver", "options": {"solver": solver}}
    found = odeint(swing, swung(0.0), t, rtol=1e-6, atol=1e-8, **arguments)
    assert (found - swung(t)).abs().max() < 1e-4
