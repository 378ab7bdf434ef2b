"""StepBack: the gradient of the whole graph, from the end of the solve and its times alone."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.problem import PackedField
from isocline.solvers.base import ReversibleStepper
from isocline.state import Packing

from .adjoint_cases import OUTPUTS, gradients_of, mismatches
from .test_adjoint_memory import peak_states

BASES = ("euler", "heun", "bosh3", "rk4", "tsit5", "dop853")
GENERAL = [*map(ic.Reversible, BASES), ic.Reversible("rk4", 0.9), ic.ALF(), ic.ALF(damping=0.99)]
SPLITTING = [
    ic.Leapfrog(),
    ic.Yoshida4(),
    ic.Yoshida4(autonomous=True),
    ic.Yoshida6(),
    ic.Yoshida6(autonomous=True),
    ic.KahanLi8(),
]
EVERY = pytest.mark.parametrize("method", [*GENERAL, *SPLITTING], ids=repr)
ADAPTIVE = [method for method in GENERAL if method.adaptive]
FIXED = {"controller": ic.Constant(), "dt0": 0.1}
DIRECT, STEPBACK = ic.Direct(), ic.StepBack()


def departures(output: str, **options: Any) -> dict[str, str]:
    """In which inputs the gradient is not that of the whole graph, to 1e-10."""
    want = gradients_of(OUTPUTS[output], adjoint=DIRECT, **options)
    return mismatches(gradients_of(OUTPUTS[output], adjoint=STEPBACK, **options), want, 1e-10)


@pytest.mark.parametrize("method", GENERAL, ids=repr)
def test_of_all_outputs_in_all_inputs(method: Any) -> None:
    """In times too."""
    assert not departures("dense_everything", solver=method, **FIXED)


@pytest.mark.parametrize("output", [name for name in OUTPUTS if name != "dense_everything"])
def test_of_every_kind_of_output_over_rejected_and_uneven_steps(output: str) -> None:
    solver = ic.Reversible("bosh3")
    assert not departures(output, solver=solver, rtol=1e-5, atol=1e-5, dt0=1.0)


@pytest.mark.parametrize("method", ADAPTIVE, ids=repr)
def test_over_steps_that_a_controller_chose(method: Any) -> None:
    tolerance = 1e-3 if method.order < 3 else 1e-6
    assert not departures("ts", solver=method, rtol=tolerance, atol=tolerance)
    assert not departures("ts", solver=method, rtol=tolerance, atol=tolerance, reverse=True)


@pytest.mark.parametrize("steps", [250, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", [ic.Reversible("euler"), ic.ALF()], ids=repr)
def test_over_many_steps(method: Any, steps: int) -> None:
    constant = {"controller": ic.Constant(), "dt0": 1.2 / steps}
    assert not departures("t1", solver=method, times=False, **constant)


@EVERY
def test_events_that_cut_a_step(method: Any) -> None:
    """One steps back from the end of the whole step, which lies behind the event."""

    def gradients(adjoint: Any) -> dict[str, Tensor]:
        inputs = {
            "y0": torch.tensor([1.0, 0.2], dtype=torch.float64, requires_grad=True),
            "level": torch.tensor(0.55, dtype=torch.float64, requires_grad=True),
            "kick": torch.tensor(-0.8, dtype=torch.float64, requires_grad=True),
        }
        y0, level, kick = inputs.values()
        event = ic.Event(
            lambda t, y: y[0] - level, lambda t, y: y * torch.stack([kick * 0 + 1, kick])
        )
        sol = ic.solve(
            lambda t, y: torch.stack([y[1], -y[0].sin() * level]), y0, 0.0, 4.0, solver=method,
            event=event, adjoint=adjoint, **FIXED,
        )  # fmt: skip
        assert sol.events
        value = sol.ys.square().sum() + sol.events[0].t
        return dict(zip(inputs, torch.autograd.grad(value, list(inputs.values())), strict=True))

    assert not mismatches(gradients(STEPBACK), gradients(DIRECT), 1e-10)


def swung(adjoint: Any, method: Any, steps: int, order: int) -> dict[str, Tensor]:
    """First or second derivatives of a driven pendulum, which separates into two halves."""
    inputs = {
        "y0": torch.tensor([1.0, 0.2], dtype=torch.float64, requires_grad=True),
        "length": torch.tensor(0.8, dtype=torch.float64, requires_grad=True),
        "t0": torch.tensor(0.1, dtype=torch.float64, requires_grad=True),
        "ts": torch.tensor([0.3, 0.77], dtype=torch.float64, requires_grad=True),
    }
    y0, length, t0, ts = inputs.values()

    def field(t: Tensor, y: Tensor) -> Tensor:
        drift = y[1] * (1 + 0.1 * t) if not getattr(method, "autonomous", False) else y[1]
        return torch.stack([drift, torch.cos(3 * t) - torch.sin(y[0]) / length])

    sol = ic.solve(
        field, y0, t0, 1.1, solver=method, adjoint=adjoint, controller=ic.Constant(),
        dt0=1 / steps, save=ic.SaveAt(ts=ts, t1=True, dense=True),
    )  # fmt: skip
    value = sol.ys.square().sum() + sol(ts + 0.2).sum()
    for _ in range(order - 1):
        found = torch.autograd.grad(value, list(inputs.values()), create_graph=True)
        value = torch.stack([gradient.sin().sum() for gradient in found]).sum()
    return dict(zip(inputs, torch.autograd.grad(value, list(inputs.values())), strict=True))


@pytest.mark.parametrize("order", [1, 2])
@EVERY
def test_of_a_system_that_separates(method: Any, order: int) -> None:
    found, want = (swung(adjoint, method, 6, order) for adjoint in (STEPBACK, DIRECT))
    assert not mismatches(found, want, 1e-10)


@pytest.mark.slow
def test_over_a_thousand_symplectic_steps() -> None:
    found, want = (swung(adjoint, ic.Leapfrog(), 1000, 1) for adjoint in (STEPBACK, DIRECT))
    assert not mismatches(found, want, 1e-10)


# --- what it costs ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", [ic.Reversible("rk4"), ic.ALF()], ids=repr)
def test_memory_does_not_grow_with_the_steps(method: Any) -> None:
    few, many = (peak_states(STEPBACK, steps, solver=method) for steps in (8, 40))
    assert many <= few + 0.5


@EVERY
def test_each_step_is_taken_back_once_and_again_once(method: Any) -> None:
    """Both at the price of a step without an error estimate."""
    y0 = torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)
    field = PackedField(lambda t, y: -y.flip(0), Packing.of(y0))
    stepper = method.bind(field, field.packing)
    with torch.no_grad():
        memory = stepper.init(0.0, y0)
        before = field.evaluations
        stepper.advance(0.0, 0.1, y0, memory)
    price, start = field.evaluations - before, before
    sol = ic.solve(lambda t, y: -y.flip(0), y0, 0.0, 1.0, solver=method, adjoint=STEPBACK, **FIXED)
    sol.ys.sum().backward()
    carries = bool(memory.carried) and memory.slope is not None and isinstance(method, ic.ALF)
    carries = carries or getattr(method, "merges", False)
    assert start <= 1
    assert sol.stats.nfe_backward == 2 * 10 * price + carries  # what the first step was handed


# --- what it says -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tsit5", "rk4", ic.AdamsBashforth(), ic.TRBDF2()], ids=repr)
def test_another_method_is_refused_before_it_solves(method: Any) -> None:
    calls: list[float] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        calls.append(float(t))
        return -y

    y0 = torch.ones(2, requires_grad=True)
    with pytest.raises(ic.GradientError, match=r"cannot be taken back.*Reversible\("):
        ic.solve(field, y0, 0.0, 1.0, solver=method, dt0=0.1, adjoint=STEPBACK)
    assert not calls


def test_which_methods_can_be_taken_back() -> None:
    """Every registered one that can: tests that run over them are to name each."""
    packing = Packing.of(torch.zeros(2))
    field = PackedField(lambda t, y: y, packing)
    found = {
        type(solver)
        for solver in (make() for make in ic.solvers.SOLVERS.values())
        if isinstance(solver.bind(field, packing), ReversibleStepper)
    }
    assert found <= {type(method) for method in [*GENERAL, *SPLITTING]}
    assert {ic.ALF, ic.Leapfrog, ic.KahanLi8} <= found


def contracted(span: float, adjoint: Any) -> Tensor:
    """Gradient in the rate at which everything tends to 1."""
    k = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([2.0, 0.3], dtype=torch.float64)
    sol = ic.solve(
        lambda t, y: k * (1 - y + (1 - y).sin()), y0, 0.0, span, solver=ic.Reversible("heun"),
        controller=ic.Constant(), dt0=0.1, adjoint=adjoint,
    )  # fmt: skip
    return torch.autograd.grad(sol.ys.sum(), k)[0]


def test_a_flow_that_contracts_too_much_is_told_with_numbers() -> None:
    """Rounding of 1e-16 grows by exp(30) = 1e13 on the way back."""
    with pytest.warns(ic.GradientWarning, match="300 steps back") as told:
        contracted(30.0, STEPBACK)
    said = re.search(
        r"by (\S+) times the tolerance of the solve, or (\S+) of", str(told[0].message)
    )
    assert said is not None
    times, part = map(float, said.groups())
    assert times > 1
    assert times == pytest.approx(part / 1.1e-5, rel=0.9)  # rtol + atol / |y|; other norms


def test_one_that_contracts_a_little_is_not() -> None:
    """Warnings are errors here."""
    found, want = (contracted(4.0, adjoint) for adjoint in (STEPBACK, DIRECT))
    torch.testing.assert_close(found, want, rtol=1e-9, atol=0)


def test_a_start_at_zero_without_an_absolute_tolerance_is_no_miss() -> None:
    """Nor is one that is met to rounding in other entries."""
    y0 = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    sol = ic.solve(
        lambda t, y: y * y.flip(0).sin(), y0, 0.0, 1.0, solver=ic.Reversible("rk4"), dt0=0.25,
        rtol=1e-5, atol=0.0, adjoint=STEPBACK,
    )  # fmt: skip
    sol.ys.sum().backward()
    assert y0.grad.isfinite().all()


def test_a_symplectic_method_over_a_field_that_does_not_separate_is_told() -> None:
    """Its stages are no shears then, and there is no way back."""
    y0 = torch.tensor([1.0, 0.3], dtype=torch.float64, requires_grad=True)
    sol = ic.solve(
        lambda t, y: -y * y.flip(0), y0, 0.0, 1.0, solver="leapfrog", dt0=0.1, adjoint=STEPBACK
    )
    with pytest.warns(ic.GradientWarning, match="does not separate"):
        sol.ys.sum().backward()
