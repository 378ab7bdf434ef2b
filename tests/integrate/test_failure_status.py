"""Step limit, underflow and non-finite states: three statuses, three errors, nothing lost.

Every method meets every option; of their combinations the quick suite runs a share (`pairwise`).

One method of each kind is tried at once, the others are slow (`one_of_each_kind`).
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic

from ..known import ADAPTIVE, SOLVERS, either, fixed, one_of_each_kind, swing, swung, within_reach

EVERY = pytest.mark.parametrize("method", one_of_each_kind(SOLVERS))
ADAPTIVE_ONES = pytest.mark.parametrize("method", one_of_each_kind(ADAPTIVE))
GRAD = pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
WAYS = pytest.mark.parametrize("way", [1, -1], ids=["forward", "backward"])
Method = type[ic.solvers.ExplicitRungeKutta]


def breaks_at(when: float, value: float = math.nan, samples: tuple[int, ...] = (2,)) -> Any:
    """-y, but after `when` the rate of some samples is `value`."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        rate = -y
        if abs(t) > when:
            rate = rate.clone()
            rate[list(samples)] = value
        return rate

    return field


@pytest.mark.pairwise
@EVERY
@GRAD
@WAYS
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_state_that_breaks_names_time_and_sample(
    method: Method, grad: bool, way: int, value: float
) -> None:
    y0 = torch.ones(5, 2, dtype=torch.float64)
    field = breaks_at(0.6, value, samples=(2, 4))
    message = r"at t = -?0\.\d+ in sample 2, 4 "
    with torch.set_grad_enabled(grad), pytest.raises(ic.NonFiniteError, match=message) as caught:
        ic.solve(field, y0, 0, way, **either(method, 1))
    error = caught.value
    assert error.samples == (2, 4)
    assert 0 < way * error.time < 1
    if method().adaptive:
        # A method that looks at the middle of its steps alone finds out a little late.
        assert 0.59 < way * error.time <= 0.61
    assert error.solution is not None
    assert error.solution.status is ic.Status.NON_FINITE


@pytest.mark.pairwise
@ADAPTIVE_ONES
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("dt0", [None, 0.1])
def test_a_field_that_is_broken_from_the_start(
    method: Method, value: float, dt0: float | None
) -> None:
    """1e300 is finite, but its square is not: the first step must survive that too."""
    y0 = torch.ones(3, 1, dtype=torch.float64)
    sol = ic.solve(
        breaks_at(-1.0, value, (1,)), y0, 0, 1, solver=method(), dt0=dt0, max_steps=50,
        throw=False, save=ic.SaveAt(t0=True, t1=True),
    )  # fmt: skip
    if not math.isfinite(value):
        assert sol.status is ic.Status.NON_FINITE
        assert sol.failed_samples == (1,)
        assert torch.equal(sol.ys, y0[None])
    assert sol.t_end <= 1


def test_a_large_derivative_in_single_precision_is_no_failure() -> None:
    """Scaled by its tolerance this derivative overflows float32, yet the solution is harmless."""
    y0 = torch.zeros(2)
    sol = ic.solve(
        lambda t, y: torch.full_like(y, 1e30), y0, 0, 1e-28, rtol=1e-3, atol=1e-9, max_steps=500
    )
    torch.testing.assert_close(sol.ys[-1], torch.full((2,), 100.0))


def test_a_single_state_names_no_sample() -> None:
    with pytest.raises(ic.NonFiniteError) as caught:
        ic.solve(breaks_at(0.5, samples=(0,)), torch.ones(3), 0, 1)
    assert "sample" not in str(caught.value).split("(")[0]


@pytest.mark.pairwise
@ADAPTIVE_ONES
@WAYS
@GRAD
def test_a_blow_up_stops_before_the_singularity(method: Method, way: int, grad: bool) -> None:
    """y' = way y^2, y(0) = 1 has the pole |t| = 1."""
    y0 = torch.ones(1, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        sol = ic.solve(
            lambda t, y: way * y * y, y0, 0, 2 * way, solver=method(), throw=False,
            save=ic.SaveAt(steps=True), **within_reach(method, 1e-5, steps=60),
        )  # fmt: skip
    assert sol.status in (ic.Status.STEP_UNDERFLOW, ic.Status.NON_FINITE)
    assert way * sol.t_end == pytest.approx(1, abs=2e-3)
    assert len(sol.ts) == sol.stats.steps_accepted
    early = (way * sol.ts) < 0.9
    exact = 1 / (1 - way * sol.ts[early])
    torch.testing.assert_close(sol.ys[early, 0], exact, rtol=2e-2, atol=1e-3)


@ADAPTIVE_ONES
@GRAD
def test_a_jump_below_the_tolerance_is_an_underflow(method: Method, grad: bool) -> None:
    """`min_step` forbids the step that the field's jump at 0.5 asks for."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        return 0 * y + (1e6 if t > 0.5 else 0.0)

    y0 = torch.zeros(2, 1, dtype=torch.float64)
    controller = ic.PID(min_step=1e-3)
    with torch.set_grad_enabled(grad), pytest.raises(ic.StepUnderflowError) as caught:
        ic.solve(field, y0, 0, 1, solver=method(), controller=controller, max_steps=500)
    assert caught.value.time == pytest.approx(0.5, abs=0.05)
    assert caught.value.solution.status is ic.Status.STEP_UNDERFLOW
    assert "loosen `rtol`" in str(caught.value)


@pytest.mark.pairwise
@EVERY
@GRAD
@WAYS
def test_the_step_limit_hands_back_what_was_computed(method: Method, grad: bool, way: int) -> None:
    y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
    arguments = fixed(method, 0.01) if not method().adaptive else {"solver": method()}
    save = ic.SaveAt(t0=True, steps=True, t1=True)
    with torch.set_grad_enabled(grad):
        sol = ic.solve(swing, y0, 0, 10 * way, max_steps=6, throw=False, save=save, **arguments)
    assert sol.status is ic.Status.MAX_STEPS
    assert sol.stats.steps_accepted + sol.stats.steps_rejected == 6
    assert len(sol.ts) == sol.stats.steps_accepted + 1
    assert sol.ts[-1] == sol.t_end
    assert 0 < way * sol.t_end < 10
    torch.testing.assert_close(sol.ys, swung(sol.ts), rtol=0, atol=2e-3)


@GRAD
def test_exactly_enough_steps_is_a_success(grad: bool) -> None:
    y0 = torch.tensor([1.0, 0.0])
    with torch.set_grad_enabled(grad):
        sol = ic.solve(swing, y0, 0, 1, solver="rk4", dt0=0.1, max_steps=10)
        with pytest.raises(ic.MaxStepsError, match="raise `max_steps`") as caught:
            ic.solve(swing, y0, 0, 1, solver="rk4", dt0=0.1, max_steps=9)
    assert sol.status is ic.Status.SUCCESS
    assert caught.value.time == pytest.approx(0.9)
    assert "9 steps accepted, 0 rejected" in str(caught.value)


@GRAD
def test_output_before_the_failure_is_kept_and_after_it_left_out(grad: bool) -> None:
    ts = [0.0, 0.25, 0.5, 0.75, 1.0]
    y0 = torch.ones(3, 2, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        sol = ic.solve(breaks_at(0.6), y0, 0, 1, save=ic.SaveAt(ts=ts, t1=True), throw=False)
    assert sol.ts.tolist() == ts[:3]
    exact = torch.exp(-sol.ts)[:, None, None].expand(3, 3, 2)
    torch.testing.assert_close(sol.ys, exact, rtol=0, atol=1e-4)


def test_errors_are_of_one_family_and_distinct() -> None:
    kinds = [ic.MaxStepsError, ic.StepUnderflowError, ic.NonFiniteError]
    for kind in kinds:
        assert issubclass(kind, ic.SolveError)
        assert issubclass(kind, ic.IsoclineError)
        assert not any(issubclass(kind, other) for other in kinds if other is not kind)


def test_a_fields_own_exception_passes_through() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        ic.solve(field, torch.ones(1), 0, 1)


def test_a_zero_state_with_a_relative_tolerance_alone() -> None:
    """atol = 0 at y = 0 asks for no error at all; a field with none there is still solved."""
    sol = ic.solve(lambda t, y: torch.zeros_like(y), torch.zeros(2), 0, 1, atol=0.0)
    assert torch.equal(sol.ys[-1], torch.zeros(2))
