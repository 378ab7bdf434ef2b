"""What is `Forward`'s own: memory, price, limits. The rest is in the contract suites."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic

FIXED: dict[str, Any] = {"solver": "rk4", "dt0": 0.01}


class Turning(torch.nn.Module):
    """A rotation at a learned rate; notes the states that it is given, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(1.3, dtype=torch.float64))
        self.seen: list[weakref.ref[Tensor]] = []

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        slope = self.rate * torch.stack([-y[1], y[0]])
        self.seen.append(weakref.ref(slope))
        return slope

    def alive(self) -> int:
        gc.collect()
        return sum(reference() is not None for reference in self.seen)


def start(size: int = 2) -> Tensor:
    return torch.linspace(0.5, 1.0, size, dtype=torch.float64)


def test_nothing_of_the_steps_is_kept() -> None:
    alive = {}
    for steps in (20, 200):
        field = Turning()
        solution = ic.solve(
            field, start(), 0.0, 1.0, solver="rk4", dt0=1.0 / steps, adjoint=ic.Forward()
        )
        alive[steps] = field.alive()
        solution.ys.sum().backward()
        assert field.rate.grad is not None
    assert alive[20] == alive[200] < 10


def test_the_work_is_done_in_the_forward_pass_and_counted_there() -> None:
    """Each accepted step is taken twice, without what only the error estimate needs."""
    field = Turning()
    plain = ic.solve(field, start(), 0.0, 1.0, **FIXED, adjoint=ic.Direct()).stats
    solution = ic.solve(field, start(), 0.0, 1.0, **FIXED, adjoint=ic.Forward())
    solution.ys.sum().backward()
    assert solution.stats.nfe_forward == 2 * 4 * 100 == 2 * plain.nfe_forward
    assert solution.stats.nfe_backward == 0
    assert solution.stats.wall_time_backward > 0


def test_where_nothing_asks_for_a_gradient_nothing_is_done() -> None:
    y0 = start()
    solution = ic.solve(lambda t, y: -y, y0, 0.0, 1.0, **FIXED, adjoint=ic.Forward())
    assert solution.stats.nfe_forward == 4 * 100
    assert not solution.ys.requires_grad


@pytest.mark.parametrize("size", [2, 40], ids=["few outputs", "many outputs"])
@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_the_gradient_does_not_depend_on_the_chunk(size: int, chunk: int) -> None:
    """Fewer outputs than inputs are pulled back, more are pushed forward."""
    inputs = [start(size).requires_grad_(), torch.eye(2, 3).double().requires_grad_()]
    fixed = torch.cos(torch.arange(3 * size, dtype=torch.float64)).view(size, 3)

    def gradients(adjoint: ic.Adjoint) -> tuple[Tensor, ...]:
        y0, weight = inputs

        def field(t: Tensor, y: Tensor) -> Tensor:
            return torch.tanh(fixed @ weight.t() @ weight @ (fixed.t() @ y) * t)

        ys = ic.solve(field, y0.detach() if size > 2 else y0, 0.0, 1.0, adjoint=adjoint).ys
        wanted = inputs[1:] if size > 2 else inputs
        return torch.autograd.grad(ys.sin().sum(), wanted)

    want = gradients(ic.Direct())
    for found, gradient in zip(gradients(ic.Forward(chunk=chunk)), want, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-12, atol=1e-14)


class Cube(torch.autograd.Function):
    """Whose derivative hides from autograd how it depends on what it is given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return (3 * x**2 * cotangents[0]).detach()


def test_a_function_that_cannot_be_differentiated_twice_still_gives_its_gradient() -> None:
    """Pushing inputs forward would have to, and find zero: outputs are pulled back instead."""
    rate = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    found, want = (
        torch.autograd.grad(
            ic.solve(lambda t, y: -cube(rate * y), start(9), 0.0, 1.0, adjoint=adjoint).ys.sum(),  # noqa: B023
            rate,
        )[0]
        for cube, adjoint in ((Cube.apply, ic.Forward()), (lambda x: x**3, ic.Direct()))
    )
    torch.testing.assert_close(found, want, rtol=1e-12, atol=0)


def test_too_many_inputs_are_refused_before_the_first_step_with_numbers() -> None:
    calls: list[float] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        calls.append(float(t))
        return -y

    y0 = torch.ones(1000, requires_grad=True)
    adjoint = ic.Forward(budget=2**20)
    with pytest.raises(ic.GradientError, match=r"1000 numbers.*1000 inputs.*Checkpointed\(\)"):
        ic.solve(field, y0, 0.0, 1.0, adjoint=adjoint)
    assert len(calls) == 1  # the one that is watched


@pytest.mark.parametrize("save", [{"steps": True}, {"dense": True}])
def test_what_is_kept_of_each_step_counts(save: dict[str, bool]) -> None:
    y0 = torch.ones(10, requires_grad=True)
    options = {"save": ic.SaveAt(**save), **FIXED}
    with pytest.raises(ic.GradientError, match="budget of 0 MiB"):
        ic.solve(lambda t, y: -y, y0, 0.0, 1.0, adjoint=ic.Forward(budget=20_000), **options)
    ic.solve(lambda t, y: -y, y0, 0.0, 0.02, adjoint=ic.Forward(budget=20_000), **options)


@pytest.mark.parametrize("options", [{"chunk": 0}, {"budget": 0}, {"chunk": 2.5}, {"chunk": True}])
def test_settings_are_positive_whole_numbers(options: dict[str, Any]) -> None:
    with pytest.raises(ic.InputError, match=next(iter(options))):
        ic.Forward(**options)
