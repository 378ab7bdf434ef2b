"""Adams methods: orders, tolerances, the choice of order, and memory."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import isocline as ic
from isocline.problem import PackedField
from isocline.solvers import Memory
from isocline.solvers.multistep.history import History
from isocline.solvers.multistep.stepper import AdamsStepper
from isocline.state import Packing

from ..known import PHASES, Watched, knotted, order_of, swing, swung, unknotted

FIXED: dict[str, Callable[[int], Any]] = {
    "AB": ic.AdamsBashforth,
    "AM": ic.AdamsMoulton,
    "AM3": lambda order: ic.AdamsMoulton(order, corrections=3),
}
EVERY_FIXED = pytest.mark.parametrize("make", FIXED.values(), ids=FIXED)
SOLVERS = [ic.AdamsBashforth(), ic.AdamsMoulton(), ic.Adams()]
EVERY = pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.name)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- orders ----------------------------------------------------------------------------------


def swayed(t: Tensor, y: Tensor) -> Tensor:
    """Five equations whose solution is sin(t + phase), and which say little about themselves.

    So that explicit formulas of order 12 are stable where their error still shows.
    """
    exact = torch.sin(t + PHASES)
    return torch.cos(t + PHASES) + 0.003 * (torch.sin(y) - torch.sin(exact))


def swaying(t: float) -> Tensor:
    return torch.sin(double(t) + PHASES)


def halting(start: float, length: float, pairs: int) -> dict[str, Any]:
    """Constant steps that a stop cuts to 0.6 of their length every other time."""
    pair = length / pairs
    stops = tuple(start + pair * i for i in range(1, pairs))
    return {"controller": ic.Constant(stops=stops), "dt0": pair / 1.6}


@EVERY_FIXED
@pytest.mark.parametrize("p", range(1, 13))
def test_the_order_holds_with_uneven_steps(make: Callable[[int], Any], p: int) -> None:
    simple = p > 8
    field, exact, length = (swayed, swaying, 12.0) if simple else (knotted, unknotted, 1.5)
    first = {4: 20, 5: 19, 6: 18}.get(p, 20 if p < 4 else 15)
    counts, errors = [], []
    for n in (round(2 ** (k / 4)) for k in range(first, 29)):
        with torch.no_grad():
            t1 = 0.3 + length
            sol = ic.solve(field, exact(0.3), 0.3, t1, solver=make(p), **halting(0.3, length, n))
        assert sol.stats.steps_accepted == 2 * n
        error = (sol.ys[-1] - exact(t1)).abs().max().item()
        if error < (3e-12 if simple else 4e-13):
            break
        counts.append(n)
        errors.append(error)
        if len(errors) == 5 and p < 7:
            break
    order = order_of(counts[-5:], errors[-5:], corrected=False)
    assert len(errors) >= 4
    assert p - 0.35 <= order <= p + 0.65, (counts, errors)


@given(data=st.data(), way=st.sampled_from([1, -1]))
@settings(max_examples=40)
def test_polynomials_are_exact_whatever_the_steps(data: st.DataObject, way: int) -> None:
    """y' = p(t) of degree order - 1, with steps that change at every stop, up to fifty-fold."""
    order = data.draw(st.integers(1, 12))
    solver = data.draw(st.sampled_from(list(FIXED.values())))(order)
    number = st.floats(-1, 1, allow_subnormal=False)
    coefficients = data.draw(st.lists(number, min_size=order, max_size=order))
    stops = data.draw(st.lists(st.floats(0.02, 1.98), max_size=6))
    t0, t1 = (0.0, 2.0) if way > 0 else (2.0, 0.0)

    def rate(t: Tensor, y: Tensor) -> Tensor:
        return sum(c * t**k for k, c in enumerate(coefficients)) * torch.ones_like(y)

    sol = ic.solve(
        rate, double(0.0), t0, t1, solver=solver, controller=ic.Constant(stops=tuple(stops)),
        dt0=0.1,
    )  # fmt: skip
    exact = sum(c * (t1 ** (k + 1) - t0 ** (k + 1)) / (k + 1) for k, c in enumerate(coefficients))
    size = 1 + sum(abs(c) * 2**k for k, c in enumerate(coefficients))
    # Weights sum to at most 1200 in magnitude at order 12, and to more where steps change.
    assert sol.ys.item() == pytest.approx(exact, abs=2e-16 * size * 100 * 2**order)


@pytest.mark.parametrize(("max_order", "order"), [(1, 2), (2, 3), (3, 4), (4, 5), (12, 5)])
def test_adams_with_constant_steps_has_the_order_it_declares(max_order: int, order: int) -> None:
    solver = ic.Adams(max_order)
    assert solver.order == order
    counts, errors = [32, 45, 64, 91], []
    for n in counts:
        sol = ic.solve(knotted, unknotted(0.3), 0.3, 1.8, solver=solver, **halting(0.3, 1.5, n))
        errors.append((sol.ys[-1] - unknotted(1.8)).abs().max().item())
    assert order_of(counts, errors, corrected=False) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("order", [2, 4, 7, 10, 12])
@EVERY_FIXED
def test_output_between_steps_has_the_declared_order(
    make: Callable[[int], Any], order: int
) -> None:
    """Over the first steps and all others: the errors fall at least as h^min(p, q + 1)."""
    solver = make(order)
    grid = torch.linspace(0.3, 6.3, 97, dtype=torch.float64)
    exact = torch.sin(grid[:, None] + PHASES)
    counts, errors = ([8, 12, 16, 22] if order > 8 else [16, 23, 32, 45]), []
    for n in counts:
        sol = ic.solve(
            swayed, swaying(0.3), 0.3, 6.3, solver=solver, save=ic.SaveAt(ts=grid),
            **halting(0.3, 6.0, n),
        )  # fmt: skip
        errors.append((sol.ys - exact).abs().max().item())
    assert errors[-1] > 1e-14
    found = order_of(counts, errors, corrected=False)
    assert found >= min(order, solver.dense_order + 1) - 0.5, errors


def test_output_between_steps_costs_nothing_but_at_the_end() -> None:
    for solver in SOLVERS:
        options: dict[str, Any] = {"solver": solver}
        if not solver.adaptive:
            options |= {"controller": ic.Constant(), "dt0": 0.1}
        times = torch.linspace(0.0, 6.0, 301, dtype=torch.float64)[:-1]
        plain = ic.solve(swing, double(1, 0), 0.0, 6.0, **options).stats
        saved = ic.solve(swing, double(1, 0), 0.0, 6.0, save=ic.SaveAt(ts=times), **options).stats
        assert saved.nfe_forward <= plain.nfe_forward + 1 + 5  # the end, and the start's own


# --- tolerances ------------------------------------------------------------------------------


def kepler(t: Tensor, y: Tensor) -> Tensor:
    x, v = y[..., :2], y[..., 2:]
    return torch.cat([v, -x / x.norm(dim=-1, keepdim=True) ** 3], -1)


def orbit(t: Any) -> Tensor:
    """A circle, one turn in 2 pi."""
    t = torch.as_tensor(t, dtype=torch.float64)
    return torch.stack([t.cos(), t.sin(), -t.sin(), t.cos()], -1)


def logistic(t: Any) -> Tensor:
    t = torch.as_tensor(t, dtype=torch.float64)
    return (1 / (1 + 19 * torch.exp(-t)))[..., None]


PROBLEMS: dict[str, tuple[Callable[..., Tensor], Callable[[Any], Tensor], float, float]] = {
    "swing": (swing, swung, 0.0, 10.0),
    "swing back": (swing, swung, 10.0, 0.0),
    "knotted": (
        lambda t, y: knotted(t, y.view(5, 4)).flatten(),
        lambda t: unknotted(t).flatten(-2), 0.3, 1.8,
    ),
    "logistic": (lambda t, y: y * (1 - y), logistic, 0.0, 12.0),
    "circle": (kepler, orbit, 0.0, 1.5),
}  # fmt: skip


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("tol", [10.0**-k for k in range(4, 12)])
def test_a_tolerance_is_held(problem: str, tol: float) -> None:
    field, exact, t0, t1 = PROBLEMS[problem]
    grid = torch.linspace(t0, t1, 101, dtype=torch.float64)
    with torch.no_grad():
        sol = ic.solve(
            field, exact(t0), t0, t1, solver=ic.Adams(), rtol=tol, atol=tol,
            save=ic.SaveAt(ts=grid),
        )  # fmt: skip
    error = (sol.ys - exact(grid)).abs().amax(-1) / tol
    assert error[-1] <= 10
    assert error.max() <= 20


def test_smooth_problems_need_far_fewer_evaluations_than_of_dop853() -> None:
    """For no larger error, at tight tolerances: what the method is there for."""
    work = {}
    for solver, tol in ((ic.Adams(), 1e-11), (ic.DOP853(), 1e-10)):
        sol = ic.solve(swing, double(1, 0), 0.0, 30.0, solver=solver, rtol=tol, atol=tol)
        work[solver.name] = sol.stats.nfe_forward, (sol.ys[-1] - swung(30.0)).abs().max().item()
    assert work["Adams"][1] < work["DOP853"][1]
    assert work["Adams"][0] < 0.7 * work["DOP853"][0], work


# --- the choice of order ---------------------------------------------------------------------


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float, History]]:
    """Start, end and history of every step that an Adams method was asked for."""
    log: list[tuple[float, float, History]] = []
    original = AdamsStepper.step

    def step(self: AdamsStepper, t: Any, t_next: Any, y: Tensor, memory: Memory | None) -> Any:
        assert memory is not None
        log.append((t, t_next, memory.numbers))
        return original(self, t, t_next, y, memory)

    monkeypatch.setattr(AdamsStepper, "step", step)
    return log


Tried = list[tuple[float, float, History]]


def test_the_order_follows_the_tolerance(tried: Tried) -> None:
    means, highest = [], []
    for tol in (1e-3, 1e-6, 1e-9, 1e-12):
        tried.clear()
        ic.solve(swing, double(1, 0), 0.0, 20.0, solver=ic.Adams(), rtol=tol, atol=tol)
        orders = [numbers.order for _, _, numbers in tried[5:]]
        means.append(sum(orders) / len(orders))
        highest.append(max(orders))
        assert len(set(orders)) > 2
    assert means == sorted(means)
    assert highest[-1] >= 10


@pytest.mark.parametrize("most", [1, 2, 3, 5, 8])
def test_the_order_stays_within_its_bound(tried: Tried, most: int) -> None:
    solver, tol = ic.Adams(most), 1e-4 if most == 1 else 1e-7
    sol = ic.solve(swing, double(1, 0), 0.0, 5.0, solver=solver, rtol=tol, atol=tol)
    assert max(numbers.order for _, _, numbers in tried) == most
    assert (sol.ys[-1] - swung(5.0)).abs().max() <= 10 * tol


def broken(t: Tensor, y: Tensor) -> Tensor:
    """Jumps at t = 1 from cos t to cos t - 2."""
    return torch.cos(t) - 2.0 * (t > 1.0) + 0.0 * y


def test_at_a_jump_the_order_falls_and_rises_again(tried: Tried) -> None:
    tol = 1e-7
    sol = ic.solve(broken, double(0.0), 0.0, 3.0, solver=ic.Adams(), rtol=tol, atol=tol)
    assert sol.ys.item() == pytest.approx(math.sin(3.0) - 4.0, abs=20 * tol)
    before = [numbers.order for t, _, numbers in tried if 0.5 < t < 0.9]
    near = [numbers for t, t_next, numbers in tried if t <= 1.0 <= t_next]
    after = [numbers.order for t, _, numbers in tried if t > 1.5]
    assert min(before) >= 4
    assert min(numbers.order for numbers in near) <= 2
    assert max(after) >= 6
    assert sol.stats.nfe_forward < 400


def test_a_step_out_of_the_domain_is_taken_again(tried: Tried) -> None:
    """y' = -sqrt(y) is NaN below 0, where a step that is too long leads."""
    sol = ic.solve(
        lambda t, y: -y.sqrt(), double(1.0), 0.0, 1.9, solver=ic.Adams(), dt0=0.05,
        rtol=1e-2, atol=1e-2,
    )  # fmt: skip
    assert sol.ys.item() == pytest.approx(0.05**2, abs=0.1)
    stepper = bound(ic.Adams(), lambda t, y: -y.sqrt(), double(1.0))
    t, y, memory = walked(stepper, double(1.0), [0.0, 0.1, 0.2, 0.3, 0.4])
    numbers = memory.numbers
    for failure in range(1, 5):
        step = stepper.step(t, 0.5, y, Memory(memory.slope, memory.carried, numbers))
        assert math.isnan(step.judge([math.nan] * len(step.errors)))
        numbers = step.retry.numbers
        assert (numbers.failures, numbers.order) == (failure, 4 if failure < 3 else 1)


# --- memory ----------------------------------------------------------------------------------


def bound(solver: Any, field: Callable[..., Tensor], like: Tensor) -> AdamsStepper:
    packing = Packing.of(like)
    return solver.bind(PackedField(field, packing), packing)


def walked(stepper: AdamsStepper, y: Tensor, times: list[float]) -> tuple[float, Tensor, Memory]:
    """After accepted steps between the times."""
    memory = stepper.init(times[0], y)
    for t, t_next in pairwise(times):
        step = stepper.step(t, t_next, y, memory)
        if step.errors:
            step.judge([0.25] * len(step.errors))  # as much as may be: nothing to change
        y, memory = step.y1, step.memory
    return times[-1], y, memory


TIMES = [0.1 * i + 0.03 * (i % 2) for i in range(25)]


@EVERY
def test_past_slopes_are_handed_on_and_not_copied(solver: Any) -> None:
    stepper = bound(solver, swing, double(1, 0))
    _, y, memory = walked(stepper, double(1, 0), TIMES[:12])
    present = stepper.slope(TIMES[11], y)
    given = Memory(present, memory.carried, memory.numbers)
    later = stepper.step(TIMES[11], TIMES[12], y, given).memory
    assert later.carried[0] is present
    assert len(memory.carried) == len(memory.numbers.times)
    assert memory.numbers.times == tuple(TIMES[10::-1][: len(memory.carried)])
    for old, new in zip(memory.carried, later.carried[1:], strict=False):
        assert old is new
    for t, slope in zip(memory.numbers.times, memory.carried, strict=True):
        exact = swing(double(t).squeeze(), swung(t))
        torch.testing.assert_close(slope, exact, rtol=0, atol=1e-2)


@EVERY
def test_a_long_history_is_cut(solver: Any) -> None:
    stepper = bound(solver, swing, double(1, 0))
    _, _, memory = walked(stepper, double(1, 0), TIMES)
    most = {"AdamsBashforth": 4, "AdamsMoulton": 3, "Adams": 14}[solver.name]
    assert len(memory.carried) <= most


@EVERY
def test_a_rejected_step_wastes_no_evaluation_but_its_own(solver: Any) -> None:
    """Tried again it is a fresh step, and it does not evaluate the field at its start again."""
    field = Watched(swing)
    stepper = bound(solver, field, double(1, 0))
    t, y, memory = walked(stepper, double(1, 0), TIMES[:9])
    tried = stepper.step(t, t + 0.5, y, memory)
    if tried.errors:
        tried.judge([1e4] * len(tried.errors))
    field.values.clear()
    again = stepper.step(t, t + 0.1, y, tried.retry)
    assert t not in field.values
    fresh = bound(solver, swing, double(1, 0)).step(t, t + 0.1, y, tried.retry.essential)
    assert torch.equal(again.y1, fresh.y1)
    assert all(map(torch.equal, again.errors, fresh.errors))


@EVERY
@pytest.mark.parametrize("constant", [True, False])
def test_backwards_in_time_is_the_mirror_image_to_the_last_bit(solver: Any, constant: bool) -> None:
    if constant:
        options: dict[str, Any] = {"controller": ic.Constant(stops=(0.77,)), "dt0": 0.11}
        mirrored = {"controller": ic.Constant(stops=(-0.77,)), "dt0": 0.11}
    else:
        solver = ic.Adams()
        options = mirrored = {"rtol": 1e-8, "atol": 1e-8}
    save = torch.linspace(0.2, 2.4, 12, dtype=torch.float64)
    one = ic.solve(swing, double(1, 0), 0.2, 2.5, solver=solver, save=ic.SaveAt(ts=save), **options)
    other = ic.solve(
        lambda t, y: -swing(-t, y), double(1, 0), -0.2, -2.5, solver=solver,
        save=ic.SaveAt(ts=-save), **mirrored,
    )  # fmt: skip
    assert torch.equal(one.ys, other.ys)


@pytest.mark.parametrize("sliver", [0.0, 2e-5, 1e-3])
def test_slivers_do_not_magnify_rounding(sliver: float) -> None:
    """In float32, with steps that stops cut to a ten-thousandth of their length."""
    stops = tuple(0.3 + 0.05 * i + e for i in range(1, 30, 3) for e in (0.0, 0.05 * sliver))
    sol = ic.solve(
        swing, swung(0.3).float(), 0.3, 1.8, solver=ic.AdamsMoulton(8),
        controller=ic.Constant(stops=stops), dt0=0.05,
    )  # fmt: skip
    assert (sol.ys[-1] - swung(1.8)).abs().max() < 2e-6


def test_float32_holds_its_tolerances_at_all_orders() -> None:
    for tol in (1e-3, 1e-4, 1e-5):
        sol = ic.solve(
            swing, double(1, 0).float(), 0.0, 10.0, solver=ic.Adams(), rtol=tol, atol=tol
        )
        assert (sol.ys[-1] - swung(10.0)).abs().max() <= 10 * tol


# --- what cannot be --------------------------------------------------------------------------

NONE: list[tuple[type[Any], dict[str, Any]]] = [
    *((cls, {"order": p}) for cls in (ic.AdamsBashforth, ic.AdamsMoulton) for p in (0, 13, 4.0)),
    *((ic.Adams, {"max_order": p}) for p in (0, 13, True)),
    (ic.AdamsMoulton, {"corrections": 0}),
]


@pytest.mark.parametrize(("cls", "arguments"), NONE)
def test_orders_that_there_are_not(cls: type[Any], arguments: dict[str, Any]) -> None:
    with pytest.raises(ic.InputError, match="a whole number"):
        cls(**arguments)
