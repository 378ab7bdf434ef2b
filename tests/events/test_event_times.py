"""Events take place when mathematics says they do, under every solver.

Every method meets one tolerance of the bouncing ball at once; the others are slow.

One method of each kind is tried at once, the others are slow (`one_of_each_kind`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.optimize import brentq

import isocline as ic

from ..known import ADAPTIVE, SOLVERS, one_of_each_kind, swing
from .known_events import (
    BOUNCE,
    G,
    affordable,
    ball,
    bounces,
    close,
    f64,
    fall,
    height,
    pendulum,
    pendulum_passes,
    rebound,
    times_of,
    turned,
    turning_times,
)

EVERY = pytest.mark.parametrize("method", one_of_each_kind(SOLVERS))
EVERY_ADAPTIVE = pytest.mark.parametrize("method", one_of_each_kind(ADAPTIVE))
Method = type[ic.Solver]


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


def _bounce_cases() -> list[Any]:
    """Some tolerances for every method with an error estimate; at once one that is in its reach."""
    cases = []
    for method in ADAPTIVE:
        low = method().order < 3
        for tol in (1e-2, 1e-3, 1e-4, 1e-6) if low else (1e-4, 1e-6, 1e-8):
            marks = [] if tol == (1e-3 if low else 1e-6) else [pytest.mark.slow]
            cases.append(pytest.param(method, tol, marks=marks, id=f"{method.__name__}-{tol:g}"))
    return cases


@pytest.mark.parametrize(("method", "tol"), _bounce_cases())
def test_twenty_bounces(
    method: Method, tol: float, record_property: Callable[[str, object], None]
) -> None:
    """Within 10 x tolerance, for every method with an error estimate."""
    sol = ic.solve(
        fall, f64(2.0, 0.0), 0, math.inf, solver=method(), rtol=tol, atol=tol, event=ball()
    )
    found, exact = times_of(sol), f64(*bounces(20))
    assert sol.status is ic.Status.EVENT
    assert found.shape == (20,)
    record_property("error_over_tolerance", ((found - exact).abs().max() / tol).item())
    close(found, exact, 10 * tol)
    assert sol.t_end == found[-1]
    speed = math.sqrt(2 * G * 2.0) * BOUNCE**19
    torch.testing.assert_close(sol.ys[-1], f64(0.0, -speed), rtol=0, atol=30 * tol)


@EVERY
def test_an_event_is_a_zero_of_the_method_s_own_interpolant(method: Method) -> None:
    """Whatever the method's error: the search itself adds none beyond rounding."""
    save, event = ic.SaveAt(dense=True), ic.Event(turned, terminal=0)
    sol = ic.solve(swing, f64(1.0, 0.0), 0, 9, save=save, event=event, **affordable(method))
    found = times_of(sol)
    assert len(found) == 4
    states = torch.stack([one.y for one in sol.events])
    assert torch.equal(sol(found), states)
    assert turned(found, states.T).abs().max() < 1e-12


@EVERY_ADAPTIVE
@pytest.mark.parametrize("way", [1, -1], ids=["forward", "reverse"])
def test_crossings_of_a_rotation(method: Method, way: int) -> None:
    """No further off than the solution itself, whose error is the method's own affair."""
    event, save = ic.Event(turned, terminal=0), ic.SaveAt(dense=True)
    start, end = f64(1.0, 0.0), 9 * way
    sol = ic.solve(swing, start, 0, end, event=event, save=save, **affordable(method))
    exact = turning_times(9 * way)
    missed = turned(None, sol(f64(*exact)).T).abs()  # at the true times
    rate = math.cos(math.pi / 6) * math.cos(math.asin(math.pi / 6))
    found = times_of(sol)
    assert len(found) == len(exact) >= 2
    assert ((found - f64(*exact)).abs() <= 1.01 * missed / rate + 1e-12).all()


@pytest.mark.parametrize("solver", ["tsit5", "dop853", "vern7"])
@pytest.mark.parametrize("tol", [1e-5, 1e-7, 1e-9])
def test_a_pendulum_s_passes_are_elliptic_integrals(solver: str, tol: float) -> None:
    event = ic.Event(height, terminal=6)
    sol = ic.solve(
        pendulum, f64(2.0, 0.0), 0, math.inf, solver=solver, rtol=tol, atol=tol, event=event
    )
    close(times_of(sol), pendulum_passes(6), 50 * tol)
    assert [one.y[1].sign().item() for one in sol.events] == [-1, 1, -1, 1, -1, 1]


def test_bounces_with_drag() -> None:
    """y'' = -g - k y': the flights are exponentials, whose zeros SciPy brackets."""
    drag, tol = 0.3, 1e-9

    def field(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.stack([y[1], -G - drag * y[1]])

    def after(s: float, y: float, v: float) -> tuple[float, float]:
        gone = -math.expm1(-drag * s) / drag
        return y + (v + G / drag) * gone - G / drag * s, v - (G + drag * v) * gone

    event = ic.Event(height, rebound, terminal=12, direction=-1)
    sol = ic.solve(field, f64(2.0, 0.0), 0, math.inf, rtol=tol, atol=tol, event=event)
    t, y, v = 0.0, 2.0, 0.0
    for one in sol.events:
        least = 1e-6 if y == 0.0 else 0.0
        flight = brentq(lambda s, y=y, v=v: after(s, y, v)[0], least, 3.0, xtol=1e-15)
        t, v = t + flight, after(flight, y, v)[1]
        assert abs(one.t.item() - t) < 10 * tol
        assert abs(one.y[1].item() - v) < 30 * tol
        y, v = 0.0, -BOUNCE * v
    assert len(sol.events) == 12


def test_the_tolerance_of_an_event() -> None:
    """A coarse one stops the search early: fewer evaluations of the condition, a coarser time."""
    calls = 0

    def condition(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return torch.exp(y[0]) - 1.5

    def search(tolerance: float | None) -> tuple[float, int]:
        nonlocal calls
        calls = 0
        event = ic.Event(condition, tolerance=tolerance)
        sol = ic.solve(lambda t, y: y * 0 + 1, f64(0.0, 0.0), 0, 9, rtol=1e-9, event=event)
        return abs(sol.t_end - math.log(1.5)), calls

    errors, counts = zip(*map(search, (None, 1e-10, 1e-4, 0.3)), strict=True)
    assert errors[0] < 1e-15
    assert errors[1] < 1e-10
    assert errors[2] < 1e-4
    assert errors[3] < 0.3
    assert counts[0] >= counts[1] > counts[2] > counts[3]


@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 3e-5), (torch.float16, 5e-3), (torch.bfloat16, 5e-2)]
)
def test_low_precision_states(dtype: torch.dtype, atol: float) -> None:
    start = torch.tensor([2.0, 0.0], dtype=dtype)
    sol = ic.solve(fall, start, 0, math.inf, rtol=1e-4, atol=1e-4, event=ball(5))
    assert times_of(sol).dtype == torch.float64
    assert {one.y.dtype for one in sol.events} == {dtype}
    # The state at a bounce is rounded to its dtype, and the next flight starts from there.
    close(times_of(sol), f64(*bounces(5)), atol)


def test_complex_states() -> None:
    """exp(i t) turns through the imaginary axis at pi / 2, 3 pi / 2, ..."""
    start = torch.tensor([1.0 + 0.0j], dtype=torch.complex128)
    event = ic.Event(lambda t, y: y.real, terminal=3)
    sol = ic.solve(lambda t, y: 1j * y, start, 0, math.inf, rtol=1e-10, atol=1e-10, event=event)
    close(times_of(sol), f64(0.5, 1.5, 2.5) * math.pi, 1e-8)
    torch.testing.assert_close(sol.ys[-1], start * 1j, rtol=0, atol=1e-8)


def test_a_span_that_is_short_or_late() -> None:
    """Times are found to their last places, wherever zero lies."""
    for t0, length in ((1e6, 1.0), (-1e-9, 1e-8), (0.0, 1e9), (3.0, 1e-10)):
        middle = t0 + 0.37 * length
        event = ic.Event(lambda t, y, middle=middle: y[0] - (middle - y[1]), terminal=0)
        sol = ic.solve(lambda t, y: torch.ones_like(y) * y.new_tensor([1, 0]), f64(0.0, t0), t0,
                       t0 + length, event=event, rtol=1e-12, atol=1e-12 * length)  # fmt: skip
        close(times_of(sol), [middle], 4 * math.ulp(abs(t0) + length))
