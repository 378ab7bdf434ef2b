"""Gradients of event times, of the states there, and of all that comes after an event.

One adjoint of each kind is tried at once; the other schedules are slow, but for slots, which
`test_every_solver_and_every_exact_adjoint_agree` has at once.

One method of each kind is tried at once, the others are slow (`one_of_each_kind`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from scipy.special import ellipe, ellipk
from torch import Tensor, nn

import isocline as ic

from ..adjoints.adjoint_cases import (
    ADJOINTS,
    EXACT,
    FEW,
    Pendulum,
    central_differences,
    fresh_inputs,
    mismatches,
    weights_like,
)
from ..known import SOLVERS, one_of_each_kind, swing
from .known_events import affordable, clocked, f64, height, still, times_of


def quick(adjoints: Mapping[str, Any]) -> Any:
    """These adjoints; what is not of `FEW`, or only differs from one of them by slots, is slow."""
    slow = pytest.mark.slow
    return pytest.mark.parametrize(
        "adjoint",
        [
            pytest.param(adjoint, id=name, marks=[] if name in FEW and name != "slots2" else slow)
            for name, adjoint in adjoints.items()
        ],
    )


EVERY_ADJOINT = quick(ADJOINTS)
EVERY_KIND = quick(FEW)
TIGHT = {"solver": "dop853", "rtol": 3e-11, "atol": 3e-11}


def leaves(**values: float | list[float]) -> dict[str, Tensor]:
    return {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for name, value in values.items()
    }


def gradients(value: Tensor, inputs: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    found = torch.autograd.grad(value, list(inputs.values()), allow_unused=True, retain_graph=True)
    return dict(zip(inputs, found, strict=True))


def mixed(*values: Tensor) -> Tensor:
    """A number that depends on every entry, each in its own way."""
    return torch.stack([(weights_like(value) * value).sum() for value in values]).sum()


# --- the bouncing ball, in closed form --------------------------------------------------------

BOUNCES = 20


def thrown() -> dict[str, Tensor]:
    return leaves(
        h=2.0, v0=0.7, gravity=9.81, bounce=0.9, floor=0.3, t0=0.2, ts=[0.21, 0.5, 1.1, 2.6, 6.0]
    )


class Floor(nn.Module):
    """A condition with a parameter of its own."""

    def __init__(self, level: Tensor) -> None:
        super().__init__()
        self.level = level

    def forward(self, t: Tensor, y: Tensor, gravity: Tensor) -> Tensor:
        return y[0] - self.level


def bounced(inputs: Mapping[str, Tensor], adjoint: Any, **options: Any) -> ic.Solution:
    """A ball in whose solve every input enters in another way."""

    def field(t: Tensor, y: Tensor, gravity: Tensor) -> Tensor:
        return torch.stack([y[1], -gravity])

    def rebound(t: Tensor, y: Tensor, gravity: Tensor) -> Tensor:
        return torch.stack([y[0], -inputs["bounce"] * y[1]])

    event = ic.Event(Floor(inputs["floor"]), rebound, direction=-1, terminal=BOUNCES)
    y0 = torch.stack([inputs["h"], inputs["v0"]])
    save = ic.SaveAt(t0=True, ts=inputs["ts"], t1=True)
    return ic.solve(
        field, y0, inputs["t0"], math.inf, args=(inputs["gravity"],), event=event, save=save,
        adjoint=adjoint, rtol=1e-8, atol=1e-8, **options,
    )  # fmt: skip


def bounced_exactly(inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Times of the bounces, velocities before them, and the rows that are saved."""
    h, v0, g, bounce, floor, t0, ts = inputs.values()
    impact = (v0**2 + 2 * g * (h - floor)).sqrt()
    speeds = impact * bounce ** torch.arange(BOUNCES)
    flights = torch.cat([((v0 + impact) / g)[None], 2 * speeds[1:] / g])
    times = t0 + flights.cumsum(0)

    def state(t: Tensor) -> Tensor:
        done = int((times < t).sum())
        if not done:
            return torch.stack([h + v0 * (t - t0) - g / 2 * (t - t0) ** 2, v0 - g * (t - t0)])
        s, v = t - times[done - 1], speeds[done]
        return torch.stack([floor + v * s - g / 2 * s**2, v - g * s])

    last = torch.stack([floor, -speeds[-1]])
    rows = torch.stack([torch.stack([h, v0]), *map(state, ts), last])
    return times, -speeds, rows


@EVERY_ADJOINT
def test_twenty_bounces(adjoint: Any) -> None:
    """To 1e-8 relative, for all inputs: also those of the condition and of the handler."""
    inputs = thrown()
    sol = bounced(inputs, adjoint)
    states = torch.stack([one.y for one in sol.events])
    times, velocities, rows = bounced_exactly(inputs)
    exact = torch.stack([inputs["floor"].expand(BOUNCES), velocities], 1)
    torch.testing.assert_close(sol.ys, rows, rtol=1e-9, atol=1e-9)
    found = (times_of(sol), states, sol.ys)
    want = (times, exact, rows)
    for part in (
        lambda times, states, rows: mixed(times),
        lambda times, states, rows: mixed(states),
        lambda times, states, rows: mixed(rows),
        lambda times, states, rows: mixed(times, states, rows.sin()),
    ):
        assert not mismatches(
            gradients(part(*found), inputs), gradients(part(*want), inputs), 1e-8, 1e-9
        )


@EVERY_KIND
def test_each_bounce_by_itself(adjoint: Any) -> None:
    """Every time and state, on its own: nothing that comes later leaks into it."""
    inputs = thrown()
    del inputs["ts"]  # output times move nothing
    full = {**inputs, "ts": f64(0.5, 1.1)}
    sol = bounced(full, adjoint)
    times, velocities, _ = bounced_exactly(full)
    for k in (0, 1, 19):
        for got, exact in (
            (sol.events[k].t, times[k]),
            (sol.events[k].y[1], velocities[k]),
            (sol.events[k].y[0], inputs["floor"]),
        ):
            assert not mismatches(gradients(got, inputs), gradients(exact, inputs), 1e-8, 1e-9)


# --- nonlinear solutions that are known -------------------------------------------------------


@EVERY_KIND
def test_a_pendulum_s_passes(adjoint: Any) -> None:
    """Quarter periods K(sin^2(a / 2)) / sqrt(g), so dt/da by dK/dm, dt/dg = -t / 2g, dt/dt0 = 1."""
    inputs = leaves(amplitude=2.0, gravity=1.3, t0=0.4)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[1], -inputs["gravity"] * torch.sin(y[0])])

    y0 = torch.stack([inputs["amplitude"], torch.zeros((), dtype=torch.float64)])
    event = ic.Event(height, terminal=3)
    sol = ic.solve(field, y0, inputs["t0"], math.inf, event=event, adjoint=adjoint, **TIGHT)
    a, g = 2.0, 1.3
    m = math.sin(a / 2) ** 2
    by_m = (ellipe(m) / (1 - m) - ellipk(m)) / (2 * m)
    for k, one in enumerate(sol.events):
        quarters = (2 * k + 1) / math.sqrt(g)
        want = {
            "amplitude": f64(quarters * by_m * math.sin(a) / 2),
            "gravity": f64(-quarters * ellipk(m) / (2 * g)),
            "t0": f64(1.0),
        }
        assert not mismatches(gradients(one.t, inputs), want, 1e-8)
    # Energy: at the bottom v^2 / 2 = g (1 - cos a).
    speed = -math.sqrt(2 * g * (1 - math.cos(a)))
    want = {
        "amplitude": f64(g * math.sin(a) / speed),
        "gravity": f64((1 - math.cos(a)) / speed),
        "t0": f64(0.0),
    }
    assert not mismatches(gradients(sol.ys[-1, 1], inputs), want, 1e-8, 1e-9)
    assert not mismatches(gradients(sol.ys[-1, 0], inputs), dict.fromkeys(want), 1e-8, 1e-9)


@EVERY_KIND
@pytest.mark.parametrize("way", [1, -1], ids=["forward", "reverse"])
def test_crossings_of_a_rotation(adjoint: Any, way: int) -> None:
    """Turned by k (sin t - sin t0): level -s is crossed where that is arcsin(s), s in (0, 1)."""
    inputs = leaves(rate=1.0, level=0.5, t0=0.0)
    event = ic.Event(lambda t, y: y[1] + inputs["level"], terminal=2)
    sol = ic.solve(
        lambda t, y: inputs["rate"] * swing(t, y), f64(1.0, 0.0), inputs["t0"], 9.0 * way,
        event=event, adjoint=adjoint, **TIGHT,
    )  # fmt: skip
    sine = math.asin(0.5)
    for one in sol.events:
        t = one.t.item()
        slope = math.cos(t)
        want = {
            "rate": f64(-sine / slope),
            "level": f64(1 / (math.sqrt(1 - 0.25) * slope)),
            "t0": f64(1 / slope),
        }
        assert abs(math.sin(t) - sine) < 1e-9
        assert not mismatches(gradients(one.t, inputs), want, 1e-8)
        # The state there is (sqrt(1 - s^2), -s), wherever the event is.
        level = {"rate": None, "level": f64(-0.5 / math.sqrt(0.75)), "t0": None}
        assert not mismatches(gradients(one.y[0], inputs), level, 1e-8, 1e-9)
        level["level"] = f64(-1.0)
        assert not mismatches(gradients(one.y[1], inputs), level, 1e-8, 1e-9)


@EVERY_ADJOINT
def test_an_event_at_a_time_of_its_own(adjoint: Any) -> None:
    """Where the condition is t - p, dt/dp = 1, and the state moves along the field."""
    inputs = leaves(p=0.8, k=1.2)
    event = ic.Event(lambda t, y: t - inputs["p"])
    sol = ic.solve(
        lambda t, y: -inputs["k"] * y, f64(1.0, 2.0), 0, 3, event=event, adjoint=adjoint, **TIGHT
    )
    y = 2 * torch.exp(-inputs["k"] * inputs["p"])
    assert not mismatches(gradients(sol.events[0].t, inputs), {"p": f64(1.0), "k": None}, 1e-12)
    assert not mismatches(gradients(sol.ys[-1, 1], inputs), gradients(y, inputs), 1e-8)


@EVERY_KIND
def test_an_event_at_a_time_that_nothing_moves(adjoint: Any) -> None:
    k = leaves(k=1.2)
    event = ic.Event(lambda t, y: t - 0.8, lambda t, y: 2 * y)
    sol = ic.solve(
        lambda t, y: -k["k"] * y, f64(1.0, 2.0), 0, 3, event=event, adjoint=adjoint, **TIGHT
    )
    assert not mismatches(gradients(sol.ys[-1, 1], k), {"k": f64(-3 * 4 * math.exp(-3.6))}, 1e-8)
    assert not sol.events[0].t.requires_grad


@EVERY_KIND
def test_the_end_and_the_outputs_behind_an_event(adjoint: Any) -> None:
    """y' = -k y, doubled at p: beyond, y = 2 y0 exp(-k t) for all p, and d/dt1 = -k y."""
    inputs = leaves(p=0.8, k=1.2, t1=2.0, ts=[0.3, 0.8, 1.5])
    event = ic.Event(lambda t, y: t - inputs["p"], lambda t, y: 2 * y)
    save = ic.SaveAt(ts=inputs["ts"], t1=True)
    sol = ic.solve(
        lambda t, y: -inputs["k"] * y, f64(1.0, 3.0), 0, inputs["t1"],
        event=event, save=save, adjoint=adjoint, **TIGHT,
    )  # fmt: skip
    ts = torch.cat([inputs["ts"], inputs["t1"][None]])
    factor = f64(1, 1, 2, 2)  # an output at the event itself is before the handler
    exact = factor[:, None] * torch.exp(-inputs["k"] * ts)[:, None] * f64(1.0, 3.0)
    torch.testing.assert_close(sol.ys, exact, rtol=1e-9, atol=0)
    found, want = gradients(mixed(sol.ys), inputs), gradients(mixed(exact), inputs)
    want["p"] = None
    assert not mismatches(found, want, 1e-8, 1e-9)


# --- against finite differences: everything nonlinear -----------------------------------------


def driven(inputs: Mapping[str, Tensor], output: str, adjoint: Any = None) -> Tensor:
    """A driven, damped oscillator that is kicked; every part has parameters of its own."""
    module = Pendulum(inputs["weight"])
    way = 1 if inputs["t1"] > inputs["t0"] else -1
    level = 2.0 if way > 0 else 1.15

    def condition(t: Tensor, y: Tensor, drive: Tensor) -> Tensor:
        free = y.sum() - drive[0] * 4
        return torch.stack([free, torch.tanh(y[0]) - level * inputs["closed"][0] + 0.01 * t])

    def kick(t: Tensor, y: Tensor, drive: Tensor) -> Tensor:
        moved = y[0] + 0.1 * way * inputs["closed"][1] * t
        return torch.stack([moved, 1.2 * y[1] - 0.1 * drive[0] * y[0] ** 2])

    def passage(t: Tensor, y: Tensor, drive: Tensor) -> Tensor:
        return y[1] + 0.3 - 0.02 * drive[1] * y[0]

    sol = ic.solve(
        module, inputs["y0"], inputs["t0"], inputs["t1"], args=(inputs["drive"],),
        event=[ic.Event(condition, kick), ic.Event(passage, terminal=0)],
        save=ic.SaveAt(ts=inputs["ts"], t1=True, dense=output == "dense"), adjoint=adjoint,
        **TIGHT,
    )  # fmt: skip
    assert [(one.event, one.element) for one in sol.events] == [(1, 0), (0, 1), (1, 0)][way < 0 :]
    if output == "dense":
        return mixed(sol(inputs["ts"] * 0.9 + 0.05), sol.ys)
    states = torch.stack([one.y for one in sol.events])
    return mixed(times_of(sol), states.sin(), sol.ys.cos())


@pytest.mark.parametrize(
    ("output", "reverse"),
    [
        ("events", False),
        ("dense", True),
        pytest.param("events", True, marks=pytest.mark.slow),
        pytest.param("dense", False, marks=pytest.mark.slow),
    ],
)
def test_finite_differences(output: str, reverse: bool) -> None:
    inputs = fresh_inputs(reverse)
    want = central_differences(lambda moved: driven(moved, output), inputs, 1e-5)
    exact = {name: adjoint for name, adjoint in FEW.items() if name in EXACT}
    for name, adjoint in (FEW if output == "events" else exact).items():
        found = gradients(driven(inputs, output, adjoint), inputs)
        assert not mismatches(found, want, 3e-6, 1e-9), name


@pytest.mark.parametrize("method", one_of_each_kind(SOLVERS))
def test_every_solver_and_every_exact_adjoint_agree(method: type[ic.Solver]) -> None:
    """They differentiate one computation: also where dense output takes stages of its own."""

    def run(adjoint: Any) -> dict[str, Tensor | None]:
        inputs = leaves(rate=1.0, level=0.5, kick=0.8, y0=[1.0, 0.0])
        event = ic.Event(
            lambda t, y: y[1] + inputs["level"] + 0.1 * t, lambda t, y: inputs["kick"] * y
        )
        sol = ic.solve(
            lambda t, y: inputs["rate"] * swing(t, y), inputs["y0"], 0, 3, event=event,
            save=ic.SaveAt(ts=[0.2, 0.9, 2.5, 2.9]), adjoint=adjoint, **affordable(method),
        )  # fmt: skip
        assert len(sol.events) == 2
        return gradients(mixed(times_of(sol), sol.events[1].y, sol.ys), inputs)

    want = run(ic.Checkpointed())
    for adjoint in (ic.Direct(), ic.Checkpointed(slots=2)):
        assert not mismatches(run(adjoint), want, 1e-9)


# --- what has no gradient ---------------------------------------------------------------------


@EVERY_KIND
def test_a_touch_has_no_derivative(adjoint: Any) -> None:
    """Met to the last bit, at a node of the steps: there the condition's rate is zero."""
    k = leaves(k=1.0)["k"]
    event = ic.Event(lambda t, y: (t - k) ** 2, terminal=0)
    sol = ic.solve(still, f64(1.0, 2.0), 0, 2, solver="rk4", dt0=0.5, event=event, adjoint=adjoint)
    (one,) = sol.events
    assert one.t == 1.0
    with pytest.raises(ic.GradientError, match="no derivative"):
        one.t.backward()


@EVERY_KIND
@pytest.mark.parametrize(
    "hide", [lambda y: y.detach(), lambda y: y.new_tensor(y.tolist()), torch.sign], ids=range(3)
)
def test_a_condition_that_hides_what_it_depends_on(adjoint: Any, hide: Any) -> None:
    """The event is found; a gradient through it would lack the moving of its time."""
    k = leaves(k=1.0)["k"]
    event = ic.Event(lambda t, y: hide(y[0] - 0.5))
    sol = ic.solve(lambda t, y: -k * y, f64(1.0, 2.0), 0, 2, event=event, adjoint=adjoint)
    assert sol.t_end == pytest.approx(math.log(2), abs=1e-4)
    for value in (sol.events[0].t, sol.events[0].y.sum(), sol.ys.sum()):
        with pytest.raises(ic.GradientError, match="hides what it depends on"):
            value.backward(retain_graph=True)


@EVERY_KIND
@pytest.mark.parametrize("what", ["time", "state", "end"])
def test_no_second_derivative(adjoint: Any, what: str) -> None:
    k = leaves(k=1.0)["k"]
    event = ic.Event(lambda t, y: y[0] - k / 2, lambda t, y: y + 1, terminal=2)
    sol = ic.solve(lambda t, y: -k * y, f64(1.0, 2.0), 0, 9, event=event, adjoint=adjoint)
    value = {"time": sol.events[0].t, "state": sol.events[0].y.sum(), "end": sol.ys.sum()}[what]
    (first,) = torch.autograd.grad(value, k, create_graph=True)
    with pytest.raises(ic.GradientError):
        torch.autograd.grad(first, k)


@EVERY_KIND
def test_nothing_that_asks_for_a_gradient(adjoint: Any) -> None:
    event = ic.Event(lambda t, y: y[0] - 0.5, lambda t, y: 2 * y)
    sol = ic.solve(lambda t, y: -y, f64(1.0, 2.0), 0, 2, event=event, adjoint=adjoint)
    assert not any(one.t.requires_grad or one.y.requires_grad for one in sol.events)
    assert not sol.ys.requires_grad


@EVERY_KIND
def test_only_what_comes_behind_an_event_asks_for_a_gradient(adjoint: Any) -> None:
    """The first segment depends on nothing; the handler's factor enters the others."""
    inputs = leaves(factor=2.0)
    event = ic.Event(lambda t, y: y[0] - 0.5, lambda t, y: inputs["factor"] * y, terminal=2)
    sol = ic.solve(lambda t, y: -y, f64(1.0, 2.0), 0, 9, event=event, adjoint=adjoint, **TIGHT)
    assert not sol.events[0].t.requires_grad
    want = {"factor": f64(0.5)}  # y = f / 2 decays to 1 / 2 within log f
    assert not mismatches(gradients(sol.events[1].t, inputs), want, 1e-8)


@EVERY_KIND
def test_only_the_condition_asks_for_a_gradient(adjoint: Any) -> None:
    inputs = leaves(level=0.5)
    event = ic.Event(lambda t, y: y[0] - inputs["level"])
    sol = ic.solve(lambda t, y: -y, f64(1.0, 2.0), 0, 9, event=event, adjoint=adjoint, **TIGHT)
    assert not mismatches(gradients(sol.events[0].t, inputs), {"level": f64(-2.0)}, 1e-8)
    assert not mismatches(gradients(sol.ys[-1, 1], inputs), {"level": f64(2.0)}, 1e-8)


@EVERY_KIND
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128, torch.bfloat16])
def test_gradients_of_other_states(adjoint: Any, dtype: torch.dtype) -> None:
    """y' = -k y from 1 passes 1 / 2 at log(2) / k."""
    k = leaves(k=1.0)["k"]
    event = ic.Event(lambda t, y: y[0].real - 0.5)
    y0 = torch.ones(2, dtype=dtype)
    sol = ic.solve(lambda t, y: -k.to(dtype) * y, y0, 0, 9, event=event, adjoint=adjoint)
    (found,) = torch.autograd.grad(sol.events[0].t, k)
    atol = {torch.float32: 1e-4, torch.complex128: 1e-4, torch.bfloat16: 0.02}[dtype]
    torch.testing.assert_close(found, f64(-math.log(2)), rtol=0, atol=atol)


@EVERY_KIND
def test_condition_of_time_with_gradients_of_times(adjoint: Any) -> None:
    """t0 moves the state at an event that it does not move: dy/dt0 = k y."""
    inputs = leaves(t0=0.1)
    event = ic.Event(clocked(lambda t: t - 0.8))
    sol = ic.solve(
        lambda t, y: -2 * y, f64(1.0, 1.0), inputs["t0"], 3, event=event, adjoint=adjoint, **TIGHT
    )
    want = {"t0": f64(2 * math.exp(-1.4))}
    assert not mismatches(gradients(sol.ys[-1, 0], inputs), want, 1e-8)
