"""Manners of an adjoint as a part of autograd: modes, hooks, versions, repeated backward."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isocline as ic

from .adjoint_cases import ADJOINTS, BACKSOLVE, FEW, RECOMPUTING, STEPBACK, suited

TIGHT = {"rtol": 1e-8, "atol": 1e-8}
WITH_STEPBACK = {**ADJOINTS, **STEPBACK}


class Decay(nn.Module):
    """dy/dt = -rate * y, counting its calls; autograd saves the rate itself."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self.rate * -y


def ones() -> Tensor:
    return torch.ones(3, dtype=torch.float64, requires_grad=True)


def solve(field: Any, y0: Tensor, adjoint: Any, **options: Any) -> Any:
    options = suited(adjoint, {**TIGHT, **options})
    return ic.solve(field, y0, 0.0, 1.0, adjoint=adjoint, **options)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", [*FEW, *STEPBACK])
def test_nothing_is_recorded_where_gradients_are_off(name: str, context: Any) -> None:
    field = Decay()
    with context():
        solution = solve(field, ones(), WITH_STEPBACK[name])
    assert solution.ys.grad_fn is None
    assert not solution.ys.requires_grad
    assert solution.stats.nfe_backward == 0
    assert solution.stats.nfe_forward == field.calls


@pytest.mark.parametrize("name", [*FEW, *STEPBACK])
def test_nothing_is_recorded_where_nothing_requires_grad(name: str) -> None:
    field = Decay().requires_grad_(False)
    solution = solve(field, ones().detach(), WITH_STEPBACK[name])
    assert solution.ys.grad_fn is None
    assert not solution.ys.requires_grad
    assert solution.stats.nfe_forward == field.calls


@pytest.mark.parametrize("save", [ic.SaveAt(), ic.SaveAt(ts=[0.2, 0.4]), ic.SaveAt(steps=True)])
@pytest.mark.parametrize("name", [*ADJOINTS, *STEPBACK])
def test_evaluations_are_counted(name: str, save: ic.SaveAt) -> None:
    field = Decay()
    solution = solve(field, ones(), WITH_STEPBACK[name], save=save)
    forward = field.calls
    assert solution.stats.nfe_forward == forward
    assert solution.stats.nfe_backward == 0
    solution.ys.sum().backward()
    assert solution.stats.nfe_backward == field.calls - forward
    assert solution.stats.nfe_forward == forward


@pytest.mark.parametrize("name", FEW)
def test_time_gradients_are_counted_too(name: str) -> None:
    field, t1 = Decay(), torch.tensor(1.0, requires_grad=True)
    solution = ic.solve(field, ones(), 0.0, t1, adjoint=FEW[name])
    forward = field.calls
    solution.ys.sum().backward()
    assert solution.stats.nfe_backward == field.calls - forward


@pytest.mark.parametrize("name", [*ADJOINTS, *STEPBACK])
def test_backward_twice_with_retain_graph_gives_twice_the_gradient(name: str) -> None:
    field, y0 = Decay(), ones()
    loss = solve(field, y0, WITH_STEPBACK[name]).ys.square().sum()
    loss.backward(retain_graph=True)
    once = [field.rate.grad.clone(), y0.grad.clone()]
    loss.backward()
    for gradient, first in zip([field.rate.grad, y0.grad], once, strict=True):
        torch.testing.assert_close(gradient, 2 * first, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", [*ADJOINTS, *STEPBACK])
def test_backward_twice_without_retain_graph_is_an_error(name: str) -> None:
    loss = solve(Decay(), ones(), WITH_STEPBACK[name]).ys.square().sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("name", [*FEW, *STEPBACK])
def test_jacobian_of_a_linear_flow_is_its_propagator(name: str) -> None:
    matrix = torch.tensor([[-0.3, 1.1], [-0.9, -0.1]], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda y: solve(lambda t, y: matrix @ y, y, WITH_STEPBACK[name]).ys[-1],
        torch.ones(2, dtype=torch.float64),
    )
    torch.testing.assert_close(jacobian, torch.linalg.matrix_exp(matrix), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("linear", [False, True], ids=["nonlinear", "linear"])
@pytest.mark.parametrize("name", BACKSOLVE)
def test_double_backward_is_an_error(name: str, linear: bool) -> None:
    """Also for a loss linear in the output, whose cotangent carries no graph of its own."""
    field, y0 = Decay(), ones()
    ys = solve(lambda t, y: field(t, y) * y, y0, BACKSOLVE[name]).ys
    loss = ys.sum() if linear else ys.square().sum()

    def penalised() -> None:
        gradient = torch.autograd.grad(loss, y0, create_graph=True)[0]
        (gradient.square().sum() + field.rate.square()).backward()

    with pytest.raises(ic.GradientError, match=r"Checkpointed\(\)"):
        penalised()


@pytest.mark.parametrize("name", [*RECOMPUTING, *STEPBACK])
def test_create_graph_alone_does_no_harm(name: str) -> None:
    """As an optimiser or a library may ask for it and never use it."""
    y0 = ones()
    loss = solve(Decay(), y0, WITH_STEPBACK[name]).ys.sum()
    (gradient,) = torch.autograd.grad(loss, y0, create_graph=True)
    expected = torch.full_like(y0, torch.exp(torch.tensor(-0.7, dtype=torch.float64)).item())
    torch.testing.assert_close(gradient.detach(), expected.detach(), rtol=1e-6, atol=0)


def gradients_after(adjoint: Any, victim: str | None) -> list[Tensor]:
    """Of start, parameter and t0, where `victim` is changed in place before the backward pass."""
    field, start = Decay(), ones()
    t0 = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    data = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    y0 = start + 1.0
    ys = ic.solve(
        lambda t, y, x: field(t, y) * x, y0, t0, 1.0, args=(data,), adjoint=adjoint, **TIGHT
    ).ys
    if victim is not None:
        with torch.no_grad():
            {"parameter": field.rate, "y0": y0, "data": data}[victim].mul_(2.0)
    ys.square().sum().backward()
    return [start.grad, field.rate.grad, t0.grad]


@pytest.mark.parametrize("victim", ["parameter", "y0", "data"])
@pytest.mark.parametrize("name", ADJOINTS)
def test_after_a_change_in_place_the_gradient_is_right_or_an_error(name: str, victim: str) -> None:
    """`data` requires no grad; replayed with other numbers it would give another gradient."""
    want = gradients_after(ADJOINTS[name], None)
    try:
        found = gradients_after(ADJOINTS[name], victim)
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)  # noqa: PT017
    else:
        torch.testing.assert_close(found, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ADJOINTS)
def test_a_parameter_changed_in_place_is_an_error(name: str) -> None:
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients_after(ADJOINTS[name], "parameter")


@pytest.mark.parametrize("name", [*ADJOINTS, *STEPBACK])
def test_the_answer_may_be_changed_in_place(name: str) -> None:
    """As `nn.ReLU(inplace=True)` after a block does; copies of what is saved are the solver's."""
    field, y0 = Decay(), ones()
    ys = solve(field, y0, WITH_STEPBACK[name], save=ic.SaveAt(t0=True, t1=True)).ys
    ys[-1].mul_(3.0)
    ys.sum().backward()
    want = 1 + 3 * torch.exp(-field.rate.detach())
    torch.testing.assert_close(y0.grad, want.expand(3), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["parameter", "context", "y0", "time"])
@pytest.mark.parametrize("name", FEW)
def test_a_hook_runs_once_and_sees_the_whole_gradient(name: str, kind: str) -> None:
    field, y0, t1 = Decay(), ones(), torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    context = field.rate.exp()
    seen: list[Tensor] = []

    def double(gradient: Tensor) -> Tensor:
        seen.append(gradient.clone())
        return 2 * gradient

    watched = {"parameter": field.rate, "context": context, "y0": y0, "time": t1}[kind]
    watched.register_hook(double)
    ic.solve(lambda t, y: -context * y, y0, 0.0, t1, adjoint=FEW[name]).ys.sum().backward()
    assert len(seen) == 1
    rate = float(context.detach())
    factor = math.exp(-rate)
    whole = {"y0": factor, "time": -3 * rate * factor, "context": -3 * factor}
    if kind in whole:
        torch.testing.assert_close(
            seen[0], torch.full_like(seen[0], whole[kind]), rtol=1e-4, atol=0
        )
    else:
        torch.testing.assert_close(field.rate.grad, 2 * seen[0])


@pytest.mark.parametrize("name", [*FEW, *STEPBACK])
def test_gradients_accumulate_over_backward_calls_and_their_hooks_run_once_each(name: str) -> None:
    field = Decay()
    fired: list[Tensor] = []
    field.rate.register_post_accumulate_grad_hook(fired.append)
    for _ in range(2):
        solve(field, ones(), WITH_STEPBACK[name]).ys.sum().backward()
    assert len(fired) == 2
    want = -2 * 3 * torch.exp(-field.rate.detach())
    torch.testing.assert_close(field.rate.grad, want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", [*FEW, *STEPBACK])
def test_the_gradient_is_not_tied_to_what_it_came_from(name: str) -> None:
    """`.grad` must be memory of its own: an optimiser writes into it."""
    field, y0 = Decay(), ones()
    loss = solve(field, y0, WITH_STEPBACK[name]).ys.sum()
    loss.backward(retain_graph=True)
    first = y0.grad.clone()
    y0.grad.zero_()
    field.rate.grad.zero_()
    loss.backward()
    torch.testing.assert_close(y0.grad, first, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", [*FEW, *STEPBACK])
def test_backward_leaves_grad_of_other_leaves_alone(name: str) -> None:
    """`autograd.grad` for one input must write no `.grad` anywhere."""
    field, y0 = Decay(), ones()
    torch.autograd.grad(solve(field, y0, WITH_STEPBACK[name]).ys.sum(), y0)
    assert field.rate.grad is None
    assert y0.grad is None


@pytest.mark.parametrize("name", [*FEW, *STEPBACK])
def test_a_field_may_remember_its_last_output(name: str) -> None:
    """As a regulariser does: what it kept belongs to a graph that is gone, or to no one."""

    class Remembering(Decay):
        last: Tensor | None = None

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            self.last = super().forward(t, y).tanh()
            return self.last**2

    field, gradients = Remembering(), []
    for _ in range(3):
        field.rate.grad = None
        solve(field, ones(), WITH_STEPBACK[name]).ys.sum().backward()
        gradients.append(field.rate.grad)
    torch.testing.assert_close(gradients[1:], gradients[:1] * 2, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", [*FEW, *STEPBACK])
def test_saved_tensors_may_be_packed_away(name: str) -> None:
    """Under `save_on_cpu` what comes back is another object, on the same edge of the graph."""
    field, y0 = Decay(), ones()
    context = field.rate.exp()
    with torch.autograd.graph.save_on_cpu():
        ys = solve(lambda t, y: field(t, y) * context, y0, WITH_STEPBACK[name]).ys
    ys.sum().backward()
    rate = math.exp(0.7)
    whole = -3 * math.exp(-0.7 * rate) * (rate + 0.7 * rate)
    assert float(field.rate.grad) == pytest.approx(whole, rel=1e-5)
