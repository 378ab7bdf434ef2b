"""The contract of a solver, over every method of the registry, by what its table declares.

Every method meets every clause, and in it each option, in the quick suite; where a clause has more
than one, not every combination of them (`pairwise`), whose rest is slow. Where a clause holds by
code that methods share, each method has one value of its option (`in_turn`).
"""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import isocline as ic
from isocline.problem import PackedField
from isocline.solvers import Memory
from isocline.state import Packing

from ..known import (
    SOLVERS,
    OneBuffer,
    Watched,
    either,
    fixed,
    knotted,
    order_of,
    swing,
    unknotted,
    within_reach,
)

EVERY = pytest.mark.parametrize("method", SOLVERS, ids=lambda method: method.__name__)
WAYS = pytest.mark.parametrize("way", [1, -1], ids=["forward", "backward"])
GRAD = pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
Method = type[ic.Solver]

# Below this, rounding is a part of the error of a double-precision solve.
CLEAN = 2e-13
COUNTS = sorted({round(2 ** (k / 4)) for k in range(4, 25)})


def start(t0: float) -> Tensor:
    return unknotted(t0)


def span(way: int) -> tuple[float, float]:
    return (0.3, 1.8) if way > 0 else (1.8, 0.3)


# --- orders ----------------------------------------------------------------------------------


def converges(error: Callable[[int], float], order: int) -> None:
    """The order over the finest step counts whose error is clear of rounding is this one."""
    found: list[tuple[int, float]] = []
    floor = 0.0
    # Of a low order even the finest counts are clear, and the others need not be tried.
    for n in COUNTS[-9:-4] if order < 5 else COUNTS[-6:] if order == 5 else COUNTS:
        worst = error(n)
        # Errors that no longer fall are rounding, of which a method with large weights has more.
        if worst < CLEAN or (found and found[-1][1] <= worst < 1e-10):
            floor = 8 * worst
            break
        found.append((n, worst))
    finest = [pair for pair in found if pair[1] > floor][-6:]
    assert len(finest) >= 4, f"too few clean errors to measure an order: {found}"
    counts, errors = map(list, zip(*finest, strict=True))
    measured = order_of(counts, errors, corrected=False)
    # Rounding ends the count early where the order is high. A leading error that is small next to
    # the following one, as Verner's is, then makes the method look better than it is.
    above = 0.5 if order < 5 or counts[-1] > 40 else 2.0
    assert order - 0.25 < measured < order + above, (measured, finest)


def distance(found: Tensor, exact: Tensor) -> float:
    """The largest Euclidean distance over the times."""
    return torch.linalg.vector_norm(found - exact, dim=(-2, -1)).max().item()


@pytest.mark.in_turn
@EVERY
@WAYS
def test_orders_at_the_end_and_between_steps_are_those_declared(method: Method, way: int) -> None:
    """Steps bring errors O(h^p), one interpolant adds O(h^(q + 1)): together h^min(p, q + 1)."""
    t0, t1 = span(way)
    grid = torch.linspace(t0, t1, 83, dtype=torch.float64)

    @functools.cache
    def errors(n: int) -> tuple[float, float]:
        arguments = fixed(method, abs(t1 - t0) / n)
        sol = ic.solve(knotted, start(t0), t0, t1, save=ic.SaveAt(ts=grid), **arguments)
        assert sol.stats.steps_accepted == n
        return distance(sol.ys[-1], unknotted(t1)), distance(sol.ys, unknotted(grid))

    converges(lambda n: errors(n)[0], method().order)
    converges(lambda n: errors(n)[1], min(method().order, method().dense_order + 1))


@pytest.mark.pairwise
@EVERY
@WAYS
@pytest.mark.parametrize("dense", [False, True], ids=["ts", "dense"])
def test_one_interpolant_is_of_the_declared_order(method: Method, way: int, dense: bool) -> None:
    """From exact data, the interpolant of one step errs by O(h^(q + 1)) at its worst."""
    theta = torch.linspace(0, 1, 23, dtype=torch.float64)[1:-1]
    t0, t1 = span(way)

    def error(n: int) -> float:
        h = (t1 - t0) / n
        times = t0 + theta * h
        save = ic.SaveAt(dense=True) if dense else ic.SaveAt(ts=times)
        sol = ic.solve(knotted, start(t0), t0, t0 + h, save=save, **fixed(method, abs(h)))
        assert sol.stats.steps_accepted == 1
        return distance(sol(times) if dense else sol.ys, unknotted(times))

    converges(error, method().dense_order + 1)


# --- exactness -------------------------------------------------------------------------------


def rounding(method: Method) -> float:
    """What rounding of slopes of size one leaves in an interpolated state."""
    sizes: list[float] = [8.0]
    y = torch.ones(2, dtype=torch.float64)
    stepper = bound(method, lambda t, y: torch.ones_like(y), y)
    step, t = stepper.step(0.0, 1.0, y, None), 1.0
    for _ in range(4):  # a method with a history changes its weights as that grows
        sizes.append(step.dense().weights.abs().sum().item())
        step, t = stepper.step(t, t + 1.0, step.y1, step.memory), t + 1.0
    return 1e-15 * max(sizes)


def polynomial(coefficients: list[float], t: Any) -> Any:
    return sum(c * t**k for k, c in enumerate(coefficients))


def antiderivative(coefficients: list[float], t: Any) -> Any:
    return sum(c * t ** (k + 1) / (k + 1) for k, c in enumerate(coefficients))


@EVERY
@given(data=st.data(), way=st.sampled_from([1, -1]))
@settings(max_examples=6)  # what is tested is linear in the coefficients
def test_polynomials_of_degree_below_the_order_are_exact(
    method: Method, data: st.DataObject, way: int
) -> None:
    """y' = p(t): at the step's end up to degree order - 1, between up to dense_order - 1."""
    number = st.floats(-2, 2, allow_subnormal=False)
    solver = method()
    for degree, ends in ((solver.order, True), (solver.dense_order, False)):
        coefficients = data.draw(st.lists(number, min_size=degree, max_size=degree))
        t0, t1 = (-0.7, 1.1) if way > 0 else (1.1, -0.7)
        ts = [t1] if ends else torch.linspace(t0, t1, 9, dtype=torch.float64).tolist()
        sol = ic.solve(
            lambda t, y, c=coefficients: polynomial(c, t) * torch.ones_like(y),
            torch.zeros(2, dtype=torch.float64),
            t0,
            t1,
            save=ic.SaveAt(ts=ts),
            **fixed(method, 0.6),
        )
        times = torch.tensor(ts, dtype=torch.float64)
        exact = antiderivative(coefficients, times) - antiderivative(coefficients, t0)
        torch.testing.assert_close(sol.ys[:, 0], exact, rtol=0, atol=10 * rounding(method))


@EVERY
@GRAD
def test_a_constant_field_is_a_straight_line(method: Method, grad: bool) -> None:
    rate = torch.tensor([1.0, -3.0], dtype=torch.float64)
    ts = torch.linspace(2, -1, 7, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        sol = ic.solve(
            lambda t, y: rate, 0 * rate, 2, -1, save=ic.SaveAt(ts=ts), **either(method, 3)
        )
    torch.testing.assert_close(sol.ys, (ts - 2)[:, None] * rate, rtol=0, atol=10 * rounding(method))


# --- where the field is called ---------------------------------------------------------------

SAVES: dict[str, Callable[[float, float], ic.SaveAt]] = {
    "end": lambda t0, t1: ic.SaveAt(),
    "ts": lambda t0, t1: ic.SaveAt(ts=[t0 + (t1 - t0) * part for part in (0.1, 0.2, 0.93)]),
    "steps": lambda t0, t1: ic.SaveAt(t0=True, steps=True),
    "dense": lambda t0, t1: ic.SaveAt(dense=True),
}


@pytest.mark.in_turn
@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@given(
    t0=st.one_of(st.just(0.0), st.floats(-2, 2), st.floats(-1e3, 1e3)),
    length=st.floats(1e-3, 4.0),
    way=st.sampled_from([1, -1]),
    mode=st.sampled_from(sorted(SAVES)),
    stop=st.none() | st.floats(0.01, 0.99),
    grad=st.booleans(),
)
@settings(max_examples=10)
def test_the_field_is_never_called_outside_the_span(
    method: Method,
    dtype: torch.dtype,
    t0: float,
    length: float,
    way: int,
    mode: str,
    stop: float | None,
    grad: bool,
) -> None:
    """Times reach the field in the state's precision, so the ends count as rounded to it."""
    t1 = t0 + way * length
    field = Watched(lambda t, y: torch.cos(t) * torch.sin(y))
    stops = () if stop is None else (t0 + stop * (t1 - t0),)
    y0 = torch.tensor([1.0, -0.3], dtype=dtype)
    arguments = either(method, t1 - t0, stops=stops)
    with torch.set_grad_enabled(grad):
        ic.solve(field, y0, t0, t1, rtol=1e-3, atol=1e-3, save=SAVES[mode](t0, t1), **arguments)
    low, high = sorted(torch.tensor([t0, t1], dtype=torch.float64).to(dtype).tolist())
    assert low <= min(field.values)
    assert max(field.values) <= high
    assert all(t.dtype == dtype and t.shape == () for t in field.times)


@EVERY
def test_a_stiff_start_does_not_push_the_first_probe_outside(method: Method) -> None:
    """The probe for the first step is at most the span, however flat the start."""
    field = Watched(lambda t, y: 1e-9 * y)
    ic.solve(field, torch.ones(2, dtype=torch.float64), 0.0, 1e-8, **either(method, 1e-8))
    assert min(field.values) >= 0
    assert max(field.values) <= 1e-8


@pytest.mark.pairwise
@EVERY
@GRAD
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_no_stage_looks_beyond_its_step(method: Method, grad: bool, dtype: torch.dtype) -> None:
    """Where t and t_next differ in size, t + (t_next - t) is not always t_next."""
    field = Watched(lambda t, y: 0 * y)
    y = torch.ones(2, dtype=dtype)
    stepper = bound(method, field, y)
    ends = torch.randn(40, 2, dtype=torch.float64) * 10.0 ** torch.randint(-6, 3, (40, 2))
    with torch.set_grad_enabled(grad):
        for t, t_next in ends.tolist():
            field.values.clear()
            stepper.step(t, t_next, y, None).dense()
            low, high = sorted(torch.tensor([t, t_next], dtype=torch.float64).to(dtype).tolist())
            assert low <= min(field.values)
            assert max(field.values) <= high


# --- purity ----------------------------------------------------------------------------------


def bound(method: Method, field: Callable[..., Tensor], like: Tensor) -> Any:
    """The method's stepper, for packed states."""
    packing = Packing.of(like)
    return method().bind(PackedField(field, packing), packing)


def packed(t: float) -> Tensor:
    return start(t).reshape(-1)


def same(one: ic.solvers.Step, other: ic.solvers.Step) -> None:
    assert torch.equal(one.y1, other.y1)
    assert all(map(torch.equal, one.errors, other.errors))
    times = torch.linspace(0.3, 0.5, 5, dtype=torch.float64)
    assert torch.equal(one.dense().at(times), other.dense().at(times))


@EVERY
@pytest.mark.parametrize(
    ("wrap", "grad"),
    [(lambda field: field, True), (lambda field: field, False), (OneBuffer, False)],
    ids=["grad", "no_grad", "one_buffer"],
)
def test_a_retried_step_is_a_fresh_step(
    method: Method, grad: bool, wrap: Callable[..., Any]
) -> None:
    y = packed(0.3)
    with torch.set_grad_enabled(grad):
        stepper = bound(method, wrap(knotted), start(0.3))
        tried = stepper.step(0.3, 0.9, y, stepper.init(0.3, y))
        retried = stepper.step(0.3, 0.5, y, tried.retry)
        fresh = bound(method, knotted, start(0.3))
        same(retried, fresh.step(0.3, 0.5, y, fresh.init(0.3, y)))


@EVERY
def test_a_known_slope_saves_work_and_changes_nothing(method: Method) -> None:
    """A slope that is known may be left out; a replay and a step with a graph are the same.

    So the step finds what it found before, with what is remembered of it: `Memory.essential`.
    """
    t, y = 0.2, packed(0.2)
    stepper = bound(method, knotted, start(t))
    memory = stepper.init(t, y)
    for t_next in (0.3, 0.5, 0.6, 0.85, 0.95, 1.1, 1.3, 1.4):
        with torch.no_grad():
            ways = [
                stepper.step(t, t_next, y, memory),
                stepper.step(t, t_next, y, memory.essential),
                stepper.advance(t, t_next, y, memory),
                stepper.advance(t, t_next, y, memory.essential),
            ]
        leaves = Memory(
            None, tuple(c.clone().requires_grad_() for c in memory.carried), memory.numbers
        )
        graph = stepper.step(t, t_next, y.clone().requires_grad_(), leaves)
        assert graph.y1.requires_grad
        assert not any(error.requires_grad for error in graph.errors)
        for way in (*ways, graph):
            assert torch.equal(way.y1, ways[0].y1)
            assert way.memory.numbers == ways[0].memory.numbers
            assert all(map(torch.equal, way.memory.carried, ways[0].memory.carried))
        t, y, memory = t_next, ways[0].y1, ways[0].memory


@EVERY
def test_memory_carries_what_the_next_step_needs_and_no_more(method: Method) -> None:
    """A step of a solver bound anew, given what was carried, is the step of the old one."""
    t, y, like = 0.2, packed(0.2), start(0.2)
    old = bound(method, knotted, like)
    memory = old.init(t, y)
    with torch.no_grad():
        for t_next in (0.3, 0.5, 0.6, 0.85, 0.95, 1.1, 1.3, 1.4):
            step = old.step(t, t_next, y, memory)
            new = bound(method, knotted, like).step(t, t_next, y, memory.essential)
            same(step, new)
            # Dense output may find the slope at the end, and changes nothing else.
            plain = bound(method, knotted, like).step(t, t_next, y, memory)
            assert step.memory.numbers == plain.memory.numbers
            assert all(map(torch.equal, step.memory.carried, plain.memory.carried))
            t, y, memory = t_next, plain.y1, plain.memory


@pytest.mark.in_turn
@EVERY
@GRAD
def test_two_runs_give_the_same_bits(method: Method, grad: bool) -> None:
    def run() -> Tensor:
        save = ic.SaveAt(ts=[0.4, 0.77, 1.3])
        sol = ic.solve(knotted, start(0.3), 0.3, 1.3, save=save, **either(method, 1.0))
        return sol.ys

    with torch.set_grad_enabled(grad):
        assert torch.equal(run(), run())


@pytest.mark.in_turn
@EVERY
@GRAD
def test_a_field_with_one_output_buffer_gives_the_same_bits(method: Method, grad: bool) -> None:
    def run(field: Callable[..., Tensor]) -> ic.Solution:
        save = ic.SaveAt(t0=True, steps=True, dense=True)
        return ic.solve(field, start(0.3), 0.3, 1.3, save=save, **either(method, 1.0))

    with torch.set_grad_enabled(grad):
        plain, buffered = run(knotted), run(OneBuffer(knotted))
        times = torch.linspace(0.3, 1.3, 11, dtype=torch.float64)
        assert torch.equal(plain.ys, buffered.ys)
        assert torch.equal(plain(times), buffered(times))


@pytest.mark.in_turn
@EVERY
@GRAD
def test_times_that_a_field_keeps_stay_as_they_were(method: Method, grad: bool) -> None:
    field = Watched(knotted)
    with torch.set_grad_enabled(grad):
        ic.solve(field, start(0.3), 0.3, 1.3, save=ic.SaveAt(dense=True), **either(method, 1.0))
    assert [t.item() for t in field.times] == field.values


# --- statistics ------------------------------------------------------------------------------


@pytest.mark.pairwise
@EVERY
@GRAD
@pytest.mark.parametrize("mode", sorted(SAVES))
def test_statistics_count_what_happened(method: Method, grad: bool, mode: str) -> None:
    field = Watched(swing)
    arguments = either(method, 5.0) | within_reach(method, 1e-5)
    arguments.setdefault("dt0", 2.0)  # far too long: some steps are rejected
    y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        stats = ic.solve(field, y0, 0, 5, save=SAVES[mode](0, 5), **arguments).stats
        steps = ic.solve(swing, y0, 0, 5, save=ic.SaveAt(steps=True), **arguments).ts
    assert stats.nfe_forward == len(field.values)
    assert stats.nfe == stats.nfe_forward
    assert stats.nfe_backward == 0
    assert stats.steps_accepted == len(steps)
    assert (stats.steps_rejected > 0) == method().adaptive
    assert stats.wall_time > 0


@EVERY
def test_a_step_costs_the_declared_evaluations(method: Method) -> None:
    """The start apart: a slope that later steps inherit, or the first of a history."""

    def evaluations(steps: int) -> int:
        field = Watched(swing)
        y0 = torch.eye(2, dtype=torch.float64)
        ic.solve(field, y0, 0.0, steps / 16, **fixed(method, 1 / 16))
        return len(field.values)

    assert evaluations(30) - evaluations(20) == 10 * method().evaluations_per_step
