"""Every passage through zero is found, in order, however many lie in one step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import isocline as ic

from .known_events import clocked, close, f64, still, times_of, where_zero

WAYS = pytest.mark.parametrize("way", [1, -1], ids=["forward", "reverse"])
FORWARD = st.sampled_from([1, -1])


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


def polynomial(roots: list[float]) -> Any:
    return lambda t: torch.stack([t - root for root in roots]).prod()


# --- against a scan, and against roots that are put in ----------------------------------------


@st.composite
def waves(draw: st.DrawFn) -> tuple[list[float], list[float], list[float], float]:
    """Amplitudes, frequencies of at most 1, and phases of some sines, and a constant."""
    count = draw(st.integers(1, 4))
    part = st.lists(st.floats(0.1, 1.0), min_size=count, max_size=count)
    return draw(part), draw(part), draw(part), draw(st.floats(-1.0, 1.0))


@given(wave=waves(), step=st.floats(0.3, 4.0), way=FORWARD, start=st.floats(-5.0, 5.0))
def test_sums_of_sines_against_a_scan(wave: Any, step: float, way: int, start: float) -> None:
    """Steps of up to four radians of the fastest sine."""
    amplitudes, rates, phases, level = map(torch.tensor, wave)

    def wavy(t: Tensor) -> Tensor:
        angles = rates.double() * t[..., None] + 6.28 * phases
        return (amplitudes * angles.sin()).sum(-1) + level.double()

    end = start + 25.0 * way
    found = where_zero(clocked(wavy), start, end, step)
    grid = torch.linspace(start, end, 30_001, dtype=torch.float64)
    values = wavy(grid)
    scanned = (values[1:].sign() != values[:-1].sign()).nonzero().flatten()
    size = values.abs()
    lowest = (size[1:-1] <= size[:-2]) & (size[1:-1] <= size[2:]) & (size[1:-1] < 1e-6)
    if bool(lowest.any()):
        return  # two zeros closer than the grid: there the search may find more than the scan
    close(found, (grid[scanned] + grid[scanned + 1]) / 2, 25.0 / 30_000)
    assert all(wavy(f64(t)).abs() < 1e-13 for t in found)


@given(
    where=st.floats(1e-3, 1.0),
    width=st.floats(-5.0, -0.5).map(lambda digits: 10**digits),
    way=FORWARD,
    sign=FORWARD,
)
def test_through_zero_and_back_within_one_step(
    where: float, width: float, way: int, sign: int
) -> None:
    """Down to a hundred-thousandth of the step, wherever in it."""
    low = min(where, 1.0 - width)
    roots = [low * way, (low + width) * way]
    curve = polynomial(roots)
    close(where_zero(clocked(lambda t: sign * curve(t)), 0.0, 1.0 * way, 1.0), roots, 1e-9)


@given(
    gaps=st.lists(st.floats(1 / 32, 0.24), min_size=3, max_size=4), first=st.floats(1e-3, 0.03),
    way=FORWARD,
)  # fmt: skip
def test_three_and_four_passages_within_one_step(gaps: list[float], first: float, way: int) -> None:
    roots = [way * (first + sum(gaps[:k])) for k in range(len(gaps))]
    close(where_zero(clocked(polynomial(roots)), 0.0, 1.0 * way, 1.0), roots, 1e-9)


@given(where=st.floats(3.0, 4.0), depth=st.floats(1.05, 2.0), wide=st.floats(0.5, 2.0))
def test_a_dip_that_is_no_polynomial(where: float, depth: float, wide: float) -> None:
    """A bell at least half a step wide at half its height."""
    scale = wide / (2 * math.sqrt(math.log(2)))
    half = scale * math.sqrt(math.log(depth))
    found = where_zero(
        clocked(lambda t: 1 - depth * torch.exp(-(((t - where) / scale) ** 2))), 0.0, 7.0, 1.0
    )
    close(found, [where - half, where + half], 1e-12)


def test_long_adaptive_steps() -> None:
    """A field that moves nothing lets steps grow tenfold; a dip of the state is within one."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([torch.ones_like(t), 2 * (t - 7)])

    event = ic.Event(lambda t, y: y[1] - 0.01, terminal=0)
    sol = ic.solve(field, f64(0.0, 49.0), 0, 20, event=event)
    close(times_of(sol), [6.9, 7.1], 1e-9)
    assert sol.stats.steps_accepted < 8


# --- one step's events in order ---------------------------------------------------------------


@WAYS
def test_events_of_one_step_come_in_the_order_of_the_solve(way: int) -> None:
    """Several elements of several events, whatever the order in which they are given."""
    times = {(0, 0): 0.61, (0, 1): 0.12, (1, 0): 0.4, (2, 0): 0.39, (2, 1): 0.9, (2, 2): 0.05}
    events = [
        ic.Event(lambda t, y: torch.stack([t - way * 0.61, t - way * 0.12]), terminal=0),
        ic.Event(lambda t, y: t - way * 0.4, terminal=0),
        ic.Event(
            lambda t, y: torch.stack([t - way * 0.39, way * 0.9 - t, t - way * 0.05])[:, None],
            terminal=0,
        ),
    ]
    sol = ic.solve(still, f64(1.0, 2.0), 0, way, solver="rk4", dt0=1.0, event=events)
    wanted = sorted(times, key=times.__getitem__)
    assert [(one.event, one.element) for one in sol.events] == wanted
    close(times_of(sol), [way * times[key] for key in wanted], 1e-15)
    assert sol.status is ic.Status.SUCCESS


@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 3), (3, 1, 2)])
def test_elements_are_numbered_as_flattened(shape: tuple[int, ...]) -> None:
    levels = torch.linspace(0.9, 0.3, math.prod(shape), dtype=torch.float64)

    def condition(t: Tensor, y: Tensor) -> Tensor:
        return (t - levels).reshape(shape)

    event = ic.Event(condition, terminal=0)
    sol = ic.solve(still, f64(1.0, 2.0), 0, 1, solver="rk4", dt0=0.25, event=event)
    assert [one.element for one in sol.events] == list(range(len(levels)))[::-1]
    close(times_of(sol), levels.flip(0), 1e-15)


@WAYS
@pytest.mark.parametrize("step", [0.2, 2.0, 20.0])
def test_direction_is_as_the_solve_goes(way: int, step: float) -> None:
    """Of sin(t), going either way, the rises and falls in the order of the solve."""
    zeros = [way * k * math.pi for k in range(1, 5)]  # t0 itself is no passage
    both, up, down = (
        where_zero(clocked(torch.sin), 0.0, way * 13.0, min(step, 3.0), direction=d)
        for d in (0, 1, -1)
    )
    close(both, zeros, 1e-12)
    # From t0 = 0 on sin rises forward, and falls backward.
    rises = zeros[1::2] if way > 0 else zeros[0::2]
    close(up, rises, 1e-12)
    close(down, [t for t in zeros if t not in rises], 1e-12)


@pytest.mark.parametrize("direction", [0, 1, -1])
@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("step", [0.7, 3.0, 40.0])
def test_the_nth_occurrence_ends_the_solve(number: int, direction: int, step: float) -> None:
    """Also where several lie in one step; those of the other direction do not count."""
    event = ic.Event(clocked(torch.sin), terminal=number, direction=direction)
    free = ic.Event(clocked(torch.cos), terminal=0)
    sol = ic.solve(
        still, f64(1.0, 2.0), 0.1, 200, solver="rk4", dt0=min(step, 3.5), event=[event, free]
    )
    k = {0: number, 1: 2 * number, -1: 2 * number - 1}[direction]
    assert sol.status is ic.Status.EVENT
    assert sol.t_end == pytest.approx(k * math.pi, abs=1e-12)
    assert [one.event for one in sol.events].count(0) == number
    assert [one.event for one in sol.events].count(1) == k
    assert sol.events[-1].event == 0


def test_of_two_terminal_events_the_first_to_come_ends_the_solve() -> None:
    events = [ic.Event(clocked(lambda t: t - 0.7)), ic.Event(clocked(lambda t: t - 0.3))]
    sol = ic.solve(still, f64(1.0, 2.0), 0, 1, solver="rk4", dt0=1.0, event=events)
    assert [one.event for one in sol.events] == [1]
    assert sol.t_end == 0.3


# --- zero at the start, at the end, throughout ------------------------------------------------


@WAYS
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("direction", [0, 1, -1])
@pytest.mark.parametrize("step", [1e-2, 0.13, 2.0])
def test_zero_at_the_start_is_no_passage(way: int, sign: int, direction: int, step: float) -> None:
    found = where_zero(
        clocked(lambda t: sign * t * (t - 1.7 * way)), 0.0, way * 2.0, step, direction=direction
    )
    falls = sign > 0  # at the start it leaves zero downwards, and at 1.7 it comes back
    close(found, [1.7 * way] if direction in (0, 1 if falls else -1) else [], 1e-12)


def test_what_counts_is_the_sign_right_after_the_start() -> None:
    """Leaving zero at t0, it returns within the first step: one passage."""
    close(where_zero(clocked(lambda t: t * (0.01 - t)), 0.0, 1.0, 1.0), [0.01], 1e-15)
    close(where_zero(clocked(lambda t: t * (1e-8 - t)), 0.0, 1.0, 1.0), [1e-8], 1e-15)
    close(where_zero(clocked(lambda t: t**3 * (t - 0.5)), 0.0, 1.0, 1.0), [0.5], 1e-15)


@pytest.mark.parametrize("direction", [0, 1, -1])
@pytest.mark.parametrize("scale", [0.0, -0.0, 1.0])
def test_zero_throughout_is_no_event(scale: float, direction: int) -> None:
    """A conserved quantity, too, as long as it is conserved to the last bit."""
    event = ic.Event(lambda t, y: scale * (y[0] - 1), terminal=1, direction=direction)
    sol = ic.solve(still, f64(1.0, 2.0), 0, 5, event=event)
    assert sol.status is ic.Status.SUCCESS
    assert sol.events == ()


def test_zero_for_a_while_is_one_passage() -> None:
    """max(1 - t, 0) + min(3 - t, 0) falls to zero at 1, rests, and goes on falling at 3."""

    def ramp(t: Tensor) -> Tensor:
        return (1 - t).clamp(min=0) + (3 - t).clamp(max=0)

    close(where_zero(clocked(ramp), 0.0, 5.0, 0.19), [1.0], 0.19)
    close(where_zero(clocked(lambda t: -ramp(t)), 0.0, 5.0, 0.19, direction=1), [1.0], 0.19)


@WAYS
@pytest.mark.parametrize("step", [0.125, 0.5, 0.3, 1.0])
def test_exactly_at_the_end_of_a_step_and_of_the_solve(way: int, step: float) -> None:
    """At 0.5, where a step may end, and at 1, where the solve does: once each."""
    found = where_zero(
        clocked(lambda t: torch.stack([t - 0.5 * way, t - 1.0 * way])), 0.0, 1.0 * way, step
    )
    close(found, [0.5 * way, 1.0 * way], 0.0)


@WAYS
@pytest.mark.parametrize("apart", [1e-1, 1e-4, 1e-7])
def test_back_soon_after_the_end_of_a_step(way: int, apart: float) -> None:
    """Through zero to the last bit at 0.5, where a step ends, and back within the next."""
    found = where_zero(
        clocked(lambda t: (t - 0.5 * way) * (t - (0.5 + apart) * way)), 0.0, 1.0 * way, 0.5
    )
    close(found, [0.5 * way, (0.5 + apart) * way], 1e-12)


def test_at_a_stop_of_the_controller() -> None:
    event = ic.Event(clocked(lambda t: t - 0.4), terminal=0)
    controller = ic.PID(stops=(0.4, 0.7))
    sol = ic.solve(still, f64(1.0, 2.0), 0, 1, controller=controller, event=event)
    close(times_of(sol), [0.4], 0.0)


@pytest.mark.parametrize("step", [0.5, 0.3])
def test_a_touch(step: float) -> None:
    """Where the touch is met to the last bit (at 1, a node of the steps of 0.5) it counts once."""
    times = where_zero(clocked(lambda t: (t - 1) ** 2), 0.0, 2.0, step)
    assert all(abs(t - 1) < 1e-6 for t in times)
    assert len(times) == 1 or step == 0.3
    assert where_zero(clocked(lambda t: (t - 1) ** 2 + 1e-9), 0.0, 2.0, step) == []


def test_a_jump_of_the_condition_is_found_too() -> None:
    """Bisection needs no continuity, and a sign that flips is enough."""
    close(where_zero(clocked(lambda t: torch.sign(t - 0.7)), 0.0, 2.0, 0.3), [0.7], 1e-15)


# --- what looking changes ---------------------------------------------------------------------


def test_conditions_see_times_and_states_along_the_solution_only() -> None:
    """Within the span, and on the interpolant."""
    seen: list[tuple[float, float]] = []

    def condition(t: Tensor, y: Tensor) -> Tensor:
        seen.append((t.item(), y[0].item()))
        return y[0] - 0.6

    sol = ic.solve(
        lambda t, y: -y, f64(1.0, 1.0), 0, 3, event=condition, save=ic.SaveAt(dense=True)
    )
    start = sol.t_end + 1.0  # the last step went beyond the event, but not this far
    assert all(0.0 <= t <= start for t, _ in seen)
    inside = [(t, y) for t, y in seen if t <= sol.t_end]
    found = sol(f64(*(t for t, _ in inside)))[:, 0]
    torch.testing.assert_close(found, f64(*(y for _, y in inside)), rtol=0, atol=1e-14)


@given(start=st.floats(-3.0, 3.0), length=st.floats(0.1, 3.0), way=FORWARD)
def test_conditions_are_never_asked_outside_of_the_span(
    start: float, length: float, way: int
) -> None:
    end = start + way * length
    seen: list[float] = []

    def condition(t: Tensor, y: Tensor) -> Tensor:
        seen.append(t.item())
        return torch.sin(9 * t)

    ic.solve(still, f64(1.0, 2.0), start, end, event=ic.Event(condition, terminal=0))
    assert min(start, end) <= min(seen) <= max(seen) <= max(start, end)
