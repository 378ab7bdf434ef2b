"""Methods that can be taken back exactly: `Reversible` over a base method, and ALF."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.problem import PackedField
from isocline.solvers import Memory
from isocline.state import Packing

from ..known import Watched, order_of, swing

BASES = ("euler", "midpoint", "heun", "bosh3", "rk4", "dopri5", "tsit5", "dop853")
METHODS = [*map(ic.Reversible, BASES), ic.ALF(), ic.ALF(damping=0.999)]
EVERY = pytest.mark.parametrize("method", METHODS, ids=repr)
STEPS = pytest.mark.parametrize("steps", [250, pytest.param(1000, marks=pytest.mark.slow)])
Y0 = torch.tensor([1.2, -0.4], dtype=torch.float64)


def pendulum(t: Tensor, y: Tensor) -> Tensor:
    """A driven pendulum: nonlinear, and volume-preserving."""
    angle, speed = y.unbind(-1)
    return torch.stack([speed, torch.sin(t) * 0.3 - torch.sin(angle)], -1)


def bound(method: Any, field: Any = pendulum, like: Tensor = Y0) -> Any:
    packing = Packing.of(like)
    return method.bind(PackedField(field, packing), packing)


def there_and_back(method: Any, times: list[float]) -> tuple[Tensor, Tensor, Memory]:
    """The end, and what going back from it over the same steps finds."""
    stepper = bound(method)
    with torch.no_grad():
        y, memory = Y0, stepper.init(times[0], Y0)
        for t, t_next in pairwise(times):
            step = stepper.advance(t, t_next, y, memory)
            y, memory = step.y1, step.memory
        end = y
        for t_next, t in pairwise(reversed(times)):
            y, memory = stepper.back(t, t_next, y, memory)
    return end, y, memory


# --- there and back --------------------------------------------------------------------------


@EVERY
@STEPS
def test_many_steps_and_back(method: Any, steps: int) -> None:
    times = [0.3 + 0.01 * k for k in range(steps + 1)]
    end, back, memory = there_and_back(method, times)
    assert (end - Y0).abs().max() > 0.1
    torch.testing.assert_close(back, Y0, rtol=0, atol=1e-12)
    # What was carried returns as well: the second state, or the velocity.
    first = bound(method).init(0.3, Y0).carried
    torch.testing.assert_close(memory.carried, first, rtol=0, atol=1e-12)


@EVERY
@STEPS
def test_back_over_many_uneven_steps(method: Any, steps: int) -> None:
    """Steps of lengths in the ratio of 1 to 3, as a controller may choose them."""
    lengths = [0.01 * (2 + math.sin(0.37 * k)) for k in range(steps)]
    times = [0.3 + sum(lengths[:k]) for k in range(steps + 1)]
    _, back, _ = there_and_back(method, times)
    torch.testing.assert_close(back, Y0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", [m for m in METHODS if m.adaptive], ids=repr)
def test_back_over_the_steps_of_an_adaptive_solve(method: Any) -> None:
    """Steps as a controller chose and a solve recorded them."""
    tolerance = {1: 1e-5, 2: 1e-5, 3: 1e-6}.get(method.order, 1e-9)
    with torch.no_grad():
        sol = ic.solve(
            pendulum, Y0, 0.3, 8, solver=method, rtol=tolerance, atol=tolerance,
            save=ic.SaveAt(steps=True),
        )  # fmt: skip
    end, back, _ = there_and_back(method, [0.3, *sol.ts.tolist()])
    assert len(set(sol.ts.diff().tolist())) > 10
    assert torch.equal(end, sol.ys[-1])
    torch.testing.assert_close(back, Y0, rtol=0, atol=1e-12)


@EVERY
def test_one_step_back_is_the_step_before(method: Any) -> None:
    """From where the carried tensor has a life of its own, either way in time."""
    stepper = bound(method)
    for sign in (1.0, -1.0):
        carried = (torch.tensor([1.1, -0.5], dtype=torch.float64),)
        step = stepper.step(0.3, 0.3 + sign * 0.2, Y0, Memory(None, carried))
        y, memory = stepper.back(0.3, 0.3 + sign * 0.2, step.y1, step.memory)
        torch.testing.assert_close(y, Y0, rtol=0, atol=1e-15)
        torch.testing.assert_close(memory.carried, carried, rtol=0, atol=1e-14)


@EVERY
def test_the_interpolant_meets_both_ends_when_the_states_are_apart(method: Any) -> None:
    carried = (torch.tensor([1.1, -0.5], dtype=torch.float64),)
    step = bound(method).step(0.3, 0.5, Y0, Memory(None, carried))
    ends = step.dense().at(torch.tensor([0.3, 0.5], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.stack([Y0, step.y1]), rtol=0, atol=1e-14)


# --- the formulas ----------------------------------------------------------------------------


def slope(t: float, y: Tensor) -> Tensor:
    return pendulum(torch.tensor(t, dtype=torch.float64), y)


def increment(t: float, h: float, y: Tensor) -> Tensor:
    """What a step of the midpoint rule adds to y."""
    return h * slope(t + h / 2, y + h / 2 * slope(t, y))


@pytest.mark.parametrize("coupling", [1.0, 0.999, 0.6])
def test_two_steps_by_hand(coupling: float) -> None:
    stepper = bound(ic.Reversible("midpoint", coupling=coupling))
    h, y, z, memory = 0.2, Y0, Y0, None
    for t in (0.5, 0.7):
        step = stepper.step(t, t + h, y, memory)
        y = coupling * y + (1 - coupling) * z + increment(t, h, z)
        z = z - increment(t + h, -h, y)
        torch.testing.assert_close(step.y1, y, rtol=0, atol=1e-15)
        torch.testing.assert_close(step.memory.carried[0], z, rtol=0, atol=1e-15)
        y, memory = step.y1, step.memory


@pytest.mark.parametrize("damping", [1.0, 0.9, 0.3])
def test_two_steps_of_alf_by_hand(damping: float) -> None:
    stepper = bound(ic.ALF(damping))
    h, y, v, memory = 0.2, Y0, slope(0.5, Y0), None
    for t in (0.5, 0.7):
        step = stepper.step(t, t + h, y, memory)
        u = slope(t + h / 2, y + h / 2 * v)
        euler = y + h * v
        y = y + h * ((1 - damping) * v + damping * u)
        v = (1 - 2 * damping) * v + 2 * damping * u
        torch.testing.assert_close(step.y1, y, rtol=0, atol=1e-15)
        torch.testing.assert_close(step.memory.carried[0], v, rtol=0, atol=1e-15)
        torch.testing.assert_close(step.errors[0], y - euler, rtol=0, atol=1e-15)
        y, memory = step.y1, step.memory


def test_damped_alf_is_of_order_one() -> None:
    method = ic.ALF(damping=0.8)
    assert method.order == method.dense_order == 1

    def end(n: int, solver: Any) -> Tensor:
        with torch.no_grad():
            return ic.solve(
                pendulum, Y0, 0, 2, solver=solver, dt0=2 / n, controller=ic.Constant()
            ).ys[-1]

    exact = end(400, ic.DOP853())
    errors = [(end(n, method) - exact).norm().item() for n in (40, 80, 160)]
    assert order_of([40, 80, 160], errors, corrected=False) == pytest.approx(1, abs=0.1)


def test_damping_takes_the_oscillation_of_the_velocity_down() -> None:
    """By |1 - 2 eta| a step, where the field is constant."""
    for damping in (1.0, 0.9, 0.6):
        stepper = bound(ic.ALF(damping), lambda t, y: torch.ones_like(y))
        step = stepper.step(0.0, 0.1, Y0, Memory(None, (torch.full_like(Y0, 1.5),)))
        expected = 1 + 0.5 * (1 - 2 * damping)
        torch.testing.assert_close(step.memory.carried[0], torch.full_like(Y0, expected))


# --- the error estimate ----------------------------------------------------------------------


def test_the_estimate_sees_how_far_the_states_are_apart() -> None:
    """A step from y differs from that from z by Psi_h(y) - Psi_h(z), which is h J (y - z)."""
    stepper, base = bound(ic.Reversible("dopri5")), bound(ic.Dopri5())
    apart = torch.tensor([3e-4, -5e-4], dtype=torch.float64)
    for h, accuracy in ((0.1, 0.1), (0.01, 0.01)):
        z = Y0 - apart
        step = stepper.step(0.3, 0.3 + h, Y0, Memory(None, (z,)))
        from_y, from_z = (base.step(0.3, 0.3 + h, start, None) for start in (Y0, z))
        missed = (from_y.y1 - Y0) - (from_z.y1 - z)
        found = step.errors[0] - from_z.errors[0]
        assert missed.norm() > 1e-6
        assert (found - missed).norm() < accuracy * missed.norm()


def test_states_that_agree_leave_the_estimate_to_the_base_method() -> None:
    stepper, base = bound(ic.Reversible("dop853")), bound(ic.DOP853())
    assert stepper.combine is base.combine
    step, expected = stepper.step(0.3, 0.8, Y0, None), base.step(0.3, 0.8, Y0, None)
    assert len(step.errors) == 2
    for error, other in zip(step.errors, expected.errors, strict=True):
        assert (error - other).norm() < 1e-2 * other.norm()


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("base", ["bosh3", "tsit5", "dop853"])
def test_a_tolerance_holds_where_the_flow_contracts(base: str, tolerance: float) -> None:
    """Over 20 lengths of decay, by which y - z would grow to 5e8 times what a step errs."""
    method = ic.Reversible(base, coupling=0.9)
    with torch.no_grad():
        sol = ic.solve(
            lambda t, y: -y, torch.ones(1).double(), 0, 20, solver=method, rtol=tolerance,
            atol=tolerance, save=ic.SaveAt(steps=True),
        )  # fmt: skip
    errors = (sol.ys[:, 0] - torch.exp(-sol.ts)).abs()
    assert errors.max() < 30 * tolerance


# --- what it is made of ----------------------------------------------------------------------


@pytest.mark.parametrize("name", BASES)
def test_it_declares_what_the_base_method_declares(name: str) -> None:
    base = ic.solvers.by_name(name)
    method = ic.Reversible(name)
    assert method == ic.Reversible(base)
    assert method.base == base
    assert method.name == f"Reversible({base.name})"
    for what in ("order", "dense_order", "error_order", "adaptive"):
        assert getattr(method, what) == getattr(base, what)


def test_the_default_is_tsit5_and_names_are_read_as_elsewhere() -> None:
    assert ic.Reversible() == ic.Reversible(ic.Tsit5(), coupling=0.999)
    assert ic.Reversible("Dop_853").base == ic.DOP853()


@pytest.mark.parametrize("name", BASES)
def test_a_step_costs_two_steps_of_the_base_method(name: str) -> None:
    """Neither begins with a slope that is known, and the second needs no error estimate."""
    field = Watched(swing)
    stepper = bound(ic.Reversible(name), field)
    step = stepper.step(0.3, 0.8, Y0, None)
    assert len(field.times) == ic.Reversible(name).evaluations_per_step
    field.times.clear()
    stepper.advance(0.8, 1.0, step.y1, step.memory)
    assert len(field.times) == 2 * ic.solvers.by_name(name).tableau.needed


@pytest.mark.parametrize("coupling", [0.0, -0.5, 1.001, math.nan, math.inf])
def test_a_coupling_outside_of_its_range_is_refused(coupling: float) -> None:
    with pytest.raises(ic.InputError, match=r"`coupling`.*in \(0, 1\]"):
        ic.Reversible(coupling=coupling)


@pytest.mark.parametrize("damping", [0.0, 0.5, -1.0, 1.1, math.nan])
def test_a_damping_outside_of_its_range_is_refused(damping: float) -> None:
    with pytest.raises(ic.InputError, match=r"`damping`.*other than 1/2"):
        ic.ALF(damping)


@pytest.mark.parametrize(
    "solver", [ic.ALF(), ic.Leapfrog(), ic.Reversible(), ic.Tsit5, None], ids=str
)
def test_only_an_explicit_runge_kutta_method_can_be_the_base(solver: Any) -> None:
    with pytest.raises(ic.InputTypeError, match=r"`solver`.*explicit Runge-Kutta"):
        ic.Reversible(solver)


def test_an_unknown_name_gets_the_list() -> None:
    with pytest.raises(ic.InputError, match=r"`solver`: given 'alf'; expected one of .*tsit5"):
        ic.Reversible("alf")


# --- gradients -------------------------------------------------------------------------------

FEW = pytest.mark.parametrize(
    "method", [ic.ALF(), ic.ALF(0.8), ic.Reversible(), ic.Reversible("dop853", 0.9)], ids=repr
)


@FEW
@pytest.mark.parametrize(
    "adjoint",
    [ic.Checkpointed(), ic.Checkpointed(graph_budget=0), ic.Checkpointed(slots=2)],
    ids=["kept", "replayed", "slots"],
)
def test_gradients_are_those_of_the_discrete_solve(method: Any, adjoint: Any) -> None:
    """Of start, times and a parameter, through ends of steps and what lies between."""

    def gradients(adjoint: Any) -> tuple[Tensor, ...]:
        y0, scale = Y0.clone().requires_grad_(), torch.ones(2).double().requires_grad_()
        t0, t1 = (torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in (0.1, 1.83))
        save = ic.SaveAt(ts=[0.25, 0.41, 0.44, 1.2], t1=True)
        sol = ic.solve(
            lambda t, y: scale * pendulum(t, y), y0, t0, t1, solver=method, save=save,
            adjoint=adjoint, rtol=1e-3, atol=1e-3,
        )  # fmt: skip
        loss = (sol.ys.sin() * torch.arange(1, 3)).sum()
        return torch.autograd.grad(loss, [y0, scale, t0, t1])

    for found, expected in zip(gradients(adjoint), gradients(ic.Direct()), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@FEW
def test_steps_are_differentiable(method: Any) -> None:
    """Against finite differences, in the state, in what is carried, and in both times."""
    stepper = bound(method)

    def outputs(t: Tensor, t_next: Tensor, y: Tensor, carried: Tensor) -> tuple[Tensor, ...]:
        step = stepper.step(t, t_next, y, Memory(None, (carried,)))
        middle = step.dense().at(torch.tensor([0.37], dtype=torch.float64))
        assert not any(error.requires_grad for error in step.errors)
        return (step.y1, middle, *step.memory.carried)

    inputs = (torch.tensor(0.3).double(), torch.tensor(0.6).double(), Y0, Y0.flip(0))
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(outputs, leaves)
