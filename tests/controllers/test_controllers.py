"""Controllers by themselves, and how the loop obeys them.

Every method meets every option; of their combinations the quick suite runs a share (`pairwise`).

One method of each kind is tried at once, the others are slow (`one_of_each_kind`).
"""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import RK45

import isocline as ic

from ..known import (
    ADAPTIVE,
    SOLVERS,
    Logged,
    Watched,
    either,
    fixed,
    knotted,
    one_of_each_kind,
    swing,
    unknotted,
    within_reach,
)

EVERY = pytest.mark.parametrize("method", one_of_each_kind(SOLVERS))
ADAPTIVE_ONES = pytest.mark.parametrize("method", one_of_each_kind(ADAPTIVE))
WAYS = pytest.mark.parametrize("way", [1, -1], ids=["forward", "backward"])
GRAD = pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
Method = type[ic.solvers.ExplicitRungeKutta]
Y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)

ratios = st.floats(1e-6, 0.999)
lengths = st.floats(1e-6, 10)
orders = st.integers(2, 8)


# --- the formula -----------------------------------------------------------------------------


@given(lengths, ratios, ratios, ratios, orders, st.floats(0, 1), st.floats(0.1, 1), st.floats(0, 1))
def test_pid_is_soederlinds_filter(
    h: float, r2: float, r1: float, r0: float, k: int, p: float, i: float, d: float
) -> None:
    """The third of three accepted steps sees all terms, written here by errors, newest first."""
    controller = ic.PID(
        proportional=p, integral=i, derivative=d, factor_min=1e-9, factor_max=1e9, safety=0.8
    )
    state = controller.init(k)
    for ratio in (r2, r1):
        decision = controller.decide(h, ratio, state)
        state = decision.state
    accept, length, _ = controller.decide(h, r0, state)
    integral = r0 ** (-i / k)
    proportional = (r0 / r1) ** (-p / k)
    derivative = (r0 * r2 / r1**2) ** (-d / k)
    expected = h * 0.8 * integral * proportional * derivative
    assert accept
    assert length == pytest.approx(max(1e-9 * h, min(expected, 1e9 * h)), rel=1e-9)


@given(lengths, st.floats(1e-12, 1e12), orders, st.booleans())
def test_any_decision_is_within_its_bounds(h: float, ratio: float, k: int, after: bool) -> None:
    controller = ic.PI(factor_min=0.3, factor_max=4.0)
    state = controller.init(k)
    if after:
        state = controller.decide(h, 2.0, state).state
    accept, length, state = controller.decide(h, ratio, state)
    assert accept == (ratio <= 1)
    assert 0.3 * h * (1 - 1e-12) <= length <= 4 * h * (1 + 1e-12)
    if not accept:
        assert length <= 0.9 * h * (1 + 1e-12)
    elif after:
        assert length <= h, "right after a rejection the step does not grow"
    for value in (math.nan, math.inf):
        refused = controller.decide(h, value, state)
        assert not refused.accept
        assert refused.h == pytest.approx(0.3 * h)


@given(lengths, orders)
def test_an_error_of_zero_grows_the_step_and_leaves_a_usable_history(h: float, k: int) -> None:
    controller = ic.PID(proportional=0.3, integral=0.4, derivative=0.1)
    accept, length, state = controller.decide(h, 0.0, controller.init(k))
    assert accept
    assert length == pytest.approx(10 * h)
    after = controller.decide(h, 0.5, state)
    assert after.accept
    assert math.isfinite(after.h)


def test_short_hands() -> None:
    assert ic.I(safety=0.8) == ic.PID(safety=0.8)
    assert ic.PI() == ic.PID(proportional=0.4, integral=0.3)
    assert ic.PID(stops=[1, 2]).stops == (1.0, 2.0)


def recorded_by_scipy() -> list[tuple[float, float]]:
    """(step, error norm) of every attempt of SciPy's RK45 on `swing`."""
    log: list[tuple[float, float]] = []

    class Recording(RK45):  # type: ignore[misc]
        def _estimate_error_norm(self, K: Any, h: float, scale: Any) -> float:
            norm = float(super()._estimate_error_norm(K, h, scale))
            log.append((h, norm))
            return norm

    solver = Recording(
        lambda t, y: [math.cos(5 * t) * y[1], -math.cos(5 * t) * y[0]],
        0.0, [1.0, 0.0], 40.0, rtol=1e-6, atol=1e-6, first_step=2.0,
    )  # fmt: skip
    while solver.status == "running":
        solver.step()
    return log[:-1]  # the last was cut short at the end


def test_integral_control_is_scipys_rule() -> None:
    log = recorded_by_scipy()
    assert sum(norm > 1 for _, norm in log) > 5
    controller = ic.I()
    state = controller.init(5)
    for (h, norm), (following, _) in pairwise(log):
        accept, length, state = controller.decide(h, norm, state)
        assert accept == (norm < 1)
        assert length == pytest.approx(following, rel=1e-9)


# --- the loop obeys --------------------------------------------------------------------------


def logged(method: Method, t1: float = 10.0, **options: Any) -> tuple[Logged, ic.Solution]:
    controller = Logged(options.pop("controller", ic.PID()))
    options = {"save": ic.SaveAt(t0=True, steps=True), **options}
    sol = ic.solve(swing, Y0, 0, t1, solver=method(), controller=controller, **options)
    return controller, sol


@pytest.mark.pairwise
@ADAPTIVE_ONES
@WAYS
@GRAD
def test_the_step_tried_is_the_step_decided(method: Method, way: int, grad: bool) -> None:
    """To the rounding of the time; all but the last, which is cut short at t1."""
    with torch.set_grad_enabled(grad):
        controller, sol = logged(method, 10.0 * way, **within_reach(method, 1e-7))
    assert len(controller.log) == sol.stats.steps_accepted + sol.stats.steps_rejected
    for (*_, decided), (tried, *_) in pairwise(controller.log[:-1]):
        assert tried == pytest.approx(decided, rel=1e-9)
    taken = [h for h, _, accept, _ in controller.log if accept]
    assert taken == pytest.approx(sol.ts.diff().abs().tolist(), rel=1e-12)


@ADAPTIVE_ONES
def test_a_step_cut_short_does_not_shrink_the_next(method: Method) -> None:
    stops = tuple(2.0 + 1e-6 * k for k in range(1, 4))
    tolerances = within_reach(method, 1e-6)
    _, sol = logged(method, controller=ic.PID(stops=stops), **tolerances)
    plain, _ = logged(method, **tolerances)
    assert set(stops) <= set(sol.ts.tolist())
    natural = sorted(h for h, *_ in plain.log)[len(plain.log) // 2]
    index = sol.ts.tolist().index(stops[-1])
    assert sol.ts[index + 1] - sol.ts[index] > 0.2 * natural


@pytest.mark.pairwise
@EVERY
@WAYS
@GRAD
def test_stops_are_hit_exactly(method: Method, way: int, grad: bool) -> None:
    """The field jumps there; stages on either side of a stop never look across it."""
    stops = [0.1, 1 / 3, 0.7]  # in no particular order, one twice, some outside
    given_stops = tuple(way * s for s in (0.7, 0.1, 1 / 3, 0.1, 0.0, 1.0, -2.0, 5.0))
    field = Watched(lambda t, y: -y)
    with torch.set_grad_enabled(grad):
        sol = ic.solve(
            field, Y0, 0, way, save=ic.SaveAt(steps=True), **either(method, 1, stops=given_stops)
        )
    ends = sol.ts.tolist()
    assert {way * s for s in stops} <= set(ends)
    assert ends[-1] == way
    assert len(set(ends)) == len(ends)


def test_a_jump_at_a_stop_costs_no_rejection() -> None:
    """y' = 0, then 1000 from t = 1 on: with the stop each half is a straight line."""

    def field(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.where(t > 1.0, 1000.0, 0.0) * torch.ones_like(y)

    y0 = torch.zeros(1, dtype=torch.float64)
    sol = ic.solve(field, y0, 0, 2, solver="rk4", dt0=0.25, controller=ic.Constant(stops=(1.0,)))
    first_half = ic.solve(field, y0, 0, 1, solver="rk4", dt0=0.25)
    assert torch.equal(first_half.ys[-1], y0)
    assert sol.stats.steps_accepted == 8


@ADAPTIVE_ONES
@WAYS
def test_max_step_is_never_exceeded(method: Method, way: int) -> None:
    limit = 0.05
    controller, sol = logged(method, 2.0 * way, controller=ic.PID(max_step=limit), dt0=1.0)
    assert max(h for h, *_ in controller.log) <= limit * (1 + 1e-5)
    assert sol.stats.steps_accepted >= 39


@ADAPTIVE_ONES
def test_min_step_is_kept_where_the_tolerance_allows_it(method: Method) -> None:
    controller, _ = logged(method, controller=ic.PID(min_step=0.02), dt0=1e-8, rtol=1e-3, atol=1e-3)
    assert min(h for h, *_ in controller.log[:-1]) >= 0.02 * (1 - 1e-9)


@ADAPTIVE_ONES
def test_a_failure_at_min_step_ends_the_solve_at_once(method: Method) -> None:
    """At whatever time: the length of a step is only known to the rounding of t."""
    for t0 in (0.0, 0.3, 1.7, 123.4):
        controller = Logged(ic.PID(min_step=0.3))
        sol = ic.solve(
            lambda t, y: swing(t, y) * 50, Y0, t0, t0 + 10, solver=method(), throw=False,
            controller=controller, rtol=1e-12, atol=1e-12, max_steps=100,
        )  # fmt: skip
        assert sol.status is ic.Status.STEP_UNDERFLOW
        assert [h for h, *_ in controller.log].count(controller.log[-1][0]) == 1


@EVERY
@WAYS
def test_a_constant_step_is_constant_and_the_last_is_the_rest(method: Method, way: int) -> None:
    sol = ic.solve(swing, Y0, 1, 1 + way, save=ic.SaveAt(t0=True, steps=True), **fixed(method, 0.3))
    assert sol.ts.diff().abs().tolist() == pytest.approx([0.3, 0.3, 0.3, 0.1])
    assert sol.ts[-1] == 1 + way


@pytest.mark.parametrize("count", [3, 7, 10, 49, 1000])
def test_a_step_that_divides_the_span_leaves_no_sliver(count: int) -> None:
    """Sums of a rounded length miss t1 by a little: that must not cost a step."""
    sol = ic.solve(swing, Y0, 0.1, 0.8, solver="euler", dt0=0.7 / count)
    assert sol.stats.steps_accepted == count


def test_a_signed_first_step_may_point_backward() -> None:
    ends = [ic.solve(swing, Y0, 1, 0, solver="rk4", dt0=dt0).ys for dt0 in (0.1, -0.1)]
    assert torch.equal(*ends)


def test_the_first_step_does_not_matter_much() -> None:
    exact = unknotted(1.8)
    for dt0 in (None, 1e-9, 1e-3, 1.0, 1e6):
        end = ic.solve(knotted, unknotted(0.3), 0.3, 1.8, dt0=dt0, rtol=1e-8, atol=1e-8).ys[-1]
        torch.testing.assert_close(end, exact, rtol=0, atol=1e-6)


# --- bad settings ----------------------------------------------------------------------------

BAD: list[tuple[str, dict[str, Any]]] = [
    ("factor_min", {"factor_min": 0.0}),
    ("factor_min", {"factor_min": 1.0}),
    ("factor_max", {"factor_max": 1.0}),
    ("factor_max", {"factor_max": math.nan}),
    ("safety", {"safety": 0.0}),
    ("safety", {"safety": 1.5}),
    ("safety", {"safety": math.nan}),
    ("safety", {"safety": "0.9"}),
    ("integral", {"integral": 0.0}),
    ("integral", {"integral": math.nan}),
    ("proportional", {"proportional": math.inf}),
    ("derivative", {"derivative": -2.0}),
    ("min_step", {"min_step": -1.0}),
    ("min_step", {"min_step": 2.0, "max_step": 1.0}),
    ("max_step", {"max_step": 0.0}),
    ("max_step", {"max_step": math.nan}),
    ("stops", {"stops": (math.nan,)}),
    ("stops", {"stops": (math.inf,)}),
    ("stops", {"stops": 0.5}),
    ("stops", {"stops": ("a",)}),
]


@pytest.mark.parametrize(("name", "settings"), BAD, ids=str)
def test_bad_settings_name_the_setting(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ic.InputError, match=rf"`.*{name}.*`: given .*; expected "):
        ic.PID(**settings)
    if name in ("min_step", "max_step", "stops"):
        with pytest.raises(ic.InputError, match=name):
            ic.Constant(**settings)
