"""Every adjoint, every kind of output: against finite differences, and against `Direct`.

Of products with methods the quick suite runs every pair (`pairwise`).
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import isocline as ic

from .adjoint_cases import (
    ADJOINTS,
    BACKSOLVE,
    CHECKPOINTED,
    CONTINUOUS,
    DIRECT,
    FEW,
    METHODS,
    OUTPUTS,
    STEPBACK,
    Gradients,
    Output,
    Pendulum,
    central_differences,
    fresh_inputs,
    gradients_of,
    loss_of,
    mismatches,
    suited,
)

LOOSE = {"rtol": 1e-6, "atol": 1e-6}
TIGHT = {"solver": "dop853", "rtol": 1e-10, "atol": 1e-10}
# What the method's own interpolant, differentiated in time, can be trusted with at the tolerance.
ACCURACY = {"tsit5": 1e-5, "dopri5": 1e-5, "dop853": 1e-6, "bosh3": 3e-3, "rk4": 2e-5}
EVERYTHING = Output(t0=True, t1=True, ts=True)
STEPPED = Output(t0=True, ts=True, steps=True)


@functools.cache
def true_gradients(reverse: bool) -> Gradients:
    """Of the exact solution, as far as central differences of a tight solve can tell."""
    tight = {"solver": "dop853", "rtol": 1e-12, "atol": 1e-13}
    return central_differences(
        lambda inputs: loss_of(inputs, EVERYTHING, **tight), fresh_inputs(reverse), 3e-5
    )


@functools.cache
def direct_gradients(output: Output, reverse: bool, times: bool, method: str) -> Gradients:
    options = {**METHODS[method], **(LOOSE if method != "rk4" else {})}
    return gradients_of(output, reverse=reverse, times=times, adjoint=DIRECT, **options)


@functools.cache
def accurate_gradients(output: Output, reverse: bool) -> Gradients:
    return gradients_of(output, reverse=reverse, adjoint=DIRECT, **TIGHT)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", [*ADJOINTS, *STEPBACK])
def test_all_gradients_are_those_of_finite_differences(name: str, reverse: bool) -> None:
    adjoint = {**ADJOINTS, **STEPBACK}[name]
    options = suited(adjoint, METHODS["tsit5"])
    found = gradients_of(EVERYTHING, reverse=reverse, adjoint=adjoint, **options)
    assert not mismatches(found, true_gradients(reverse), ACCURACY["tsit5"])


@pytest.mark.parametrize("method", [m for m in METHODS if m != "tsit5"])
@pytest.mark.parametrize("name", [*FEW, *STEPBACK])
def test_so_they_are_for_every_method(name: str, method: str) -> None:
    adjoint = {**FEW, **STEPBACK}[name]
    found = gradients_of(EVERYTHING, adjoint=adjoint, **suited(adjoint, METHODS[method]))
    assert not mismatches(found, true_gradients(False), ACCURACY[method])


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", CHECKPOINTED)
def test_checkpointed_is_direct_on_the_same_steps(name: str, output: str) -> None:
    chosen = OUTPUTS[output]
    found = gradients_of(chosen, adjoint=CHECKPOINTED[name], **LOOSE)
    assert not mismatches(found, direct_gradients(chosen, False, True, "tsit5"), 1e-12)


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_checkpointed_is_direct_in_reverse_time(name: str) -> None:
    chosen = OUTPUTS["dense_everything"]
    found = gradients_of(chosen, reverse=True, adjoint=CHECKPOINTED[name], **LOOSE)
    assert not mismatches(found, direct_gradients(chosen, True, True, "tsit5"), 1e-12)


@pytest.mark.parametrize("output", ["t0_ts_t1", "steps_ts", "dense_everything"])
@pytest.mark.parametrize("name", CHECKPOINTED)
def test_checkpointed_is_direct_when_times_need_no_gradient(name: str, output: str) -> None:
    chosen = OUTPUTS[output]
    found = gradients_of(chosen, times=False, adjoint=CHECKPOINTED[name], **LOOSE)
    assert not mismatches(found, direct_gradients(chosen, False, False, "tsit5"), 1e-12)


@pytest.mark.pairwise
@pytest.mark.parametrize("output", ["steps_ts", "dense_everything"])
@pytest.mark.parametrize("method", [m for m in METHODS if m != "tsit5"])
@pytest.mark.parametrize("name", CHECKPOINTED)
def test_checkpointed_is_direct_for_every_method(name: str, method: str, output: str) -> None:
    options = {**METHODS[method], **(LOOSE if method != "rk4" else {})}
    chosen = OUTPUTS[output]
    found = gradients_of(chosen, adjoint=CHECKPOINTED[name], **options)
    assert not mismatches(found, direct_gradients(chosen, False, True, method), 1e-12)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("output", [name for name, out in OUTPUTS.items() if not out.dense])
def test_backsolve_approaches_direct(output: str, reverse: bool) -> None:
    chosen = OUTPUTS[output]
    found = gradients_of(chosen, reverse=reverse, adjoint=BACKSOLVE["backsolve"], **TIGHT)
    assert not mismatches(found, accurate_gradients(chosen, reverse), 1e-6)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_interpolated_approaches_direct(output: str, reverse: bool) -> None:
    """Dense output too: the loss then looks at the trajectory that is kept anyway."""
    chosen = OUTPUTS[output]
    found = gradients_of(chosen, reverse=reverse, adjoint=CONTINUOUS["interpolated"], **TIGHT)
    assert not mismatches(found, accurate_gradients(chosen, reverse), 1e-6)


@pytest.mark.parametrize("output", ["t1", "t0_ts_t1", "fn_steps"])
def test_the_seminorm_approaches_direct(output: str) -> None:
    found = gradients_of(OUTPUTS[output], adjoint=BACKSOLVE["seminorm"], **TIGHT)
    assert not mismatches(found, accurate_gradients(OUTPUTS[output], False), 1e-6)


def test_backsolve_with_a_method_and_tolerance_of_its_own() -> None:
    """A coarse forward solve, whose gradient is then that of its own end points."""
    for adjoint in (
        ic.Backsolve(solver="dopri5", rtol=1e-9, atol=1e-9),
        ic.Backsolve(solver=ic.Tsit5(), rtol=1e-9, atol=1e-9, seminorm=True),
    ):
        found = gradients_of(EVERYTHING, adjoint=adjoint, **TIGHT)
        assert not mismatches(found, accurate_gradients(EVERYTHING, False), 1e-6)


def test_backsolve_by_a_fixed_step_method_under_an_adaptive_solve_says_so() -> None:
    """No error estimate can steer that reverse solve: an error that is ours, not a crash."""
    y0 = torch.ones(2, requires_grad=True)
    with pytest.raises(ic.IsoclineError):
        ic.solve(
            lambda t, y: -y, y0, 0.0, 1.0, adjoint=ic.Backsolve(solver="rk4")
        ).ys.sum().backward()


@pytest.mark.parametrize("name", BACKSOLVE)
def test_backsolve_refuses_dense_output_before_it_solves(name: str) -> None:
    calls: list[float] = []

    def field(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        calls.append(float(t))
        return -y

    y0 = torch.ones(2, requires_grad=True)
    with pytest.raises(ic.GradientError, match="dense"):
        ic.solve(field, y0, 0.0, 1.0, save=ic.SaveAt(dense=True), adjoint=BACKSOLVE[name])
    assert not calls


@pytest.mark.parametrize("name", ADJOINTS)
def test_the_forward_answer_does_not_depend_on_the_adjoint(name: str) -> None:
    inputs = fresh_inputs()
    with torch.no_grad():
        plain = loss_of(inputs, STEPPED, **LOOSE)
    found = loss_of(inputs, STEPPED, adjoint=ADJOINTS[name], **LOOSE)
    torch.testing.assert_close(found.detach(), plain, rtol=1e-13, atol=0)


def test_the_small_budget_keeps_some_graphs_and_replays_the_rest() -> None:
    """Guards the configuration above: it must mix both ways."""

    def replayed(adjoint: Any) -> int:
        inputs = fresh_inputs()
        field, drive = Pendulum(inputs["weight"]), inputs["drive"]
        solution = ic.solve(field, inputs["y0"], 0.2, 1.4, args=(drive,), adjoint=adjoint, **LOOSE)
        solution.ys.sum().backward()
        return solution.stats.nfe_backward

    everything = replayed(CHECKPOINTED["no_graphs"])
    assert 0 < replayed(CHECKPOINTED["some_graphs"]) < everything
    assert replayed(CHECKPOINTED["checkpointed"]) == 0


@pytest.mark.parametrize("name", FEW)
def test_a_clipped_and_rejected_grid_of_steps_changes_nothing(name: str) -> None:
    """Rejected tries, stops inside the span and a first step far too long."""
    options: dict[str, Any] = {
        "dt0": 1.2,
        "controller": ic.PID(stops=(0.6, 1.0), max_step=0.5),
        **TIGHT,
    }
    want = gradients_of(EVERYTHING, adjoint=DIRECT, **options)
    found = gradients_of(EVERYTHING, adjoint=FEW[name], **options)
    assert not mismatches(found, want, 1e-6 if name in CONTINUOUS else 1e-12)
