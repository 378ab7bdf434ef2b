"""Every solver of the registry under `torch.func`: right, or a typed error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap

import isocline as ic
from isocline.solvers.implicit import IMPLICIT
from isocline.solvers.registry import SOLVERS

STEPPED = [name for name, cls in SOLVERS.items() if cls not in IMPLICIT.values()]
IMPLICITS = [name for name in SOLVERS if name not in STEPPED]


def solved(solver: str, force: Tensor, y0: Tensor, t1: Any, **options: Any) -> Tensor:
    """A driven pendulum: what is saved at two times, one of them within a step, and its end."""
    if not SOLVERS[solver]().adaptive:
        options = {"dt0": 0.15, **options}

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[1], -force[0] * y[0].sin() + force[1] * t])

    save = ic.SaveAt(ts=[0.37, 0.5], t1=True)
    found: Tensor = ic.solve(
        field, y0, 0.1, t1, solver=solver, rtol=1e-3, atol=1e-3, save=save, **options
    ).ys
    return found


def start() -> tuple[Tensor, Tensor, Tensor]:
    force, y0 = torch.tensor([[1.2, 0.4], [0.8, -0.5]], dtype=torch.float64)
    return force, y0, torch.tensor(0.7, dtype=torch.float64)


@pytest.mark.parametrize("solver", STEPPED)
def test_derivatives_are_those_of_autograd_on_the_same_steps(solver: str) -> None:
    inputs = [tensor.requires_grad_() for tensor in start()]
    ys = solved(solver, *inputs, adjoint=ic.Direct()).sin().sum(0)
    want = [torch.autograd.grad(y, inputs, retain_graph=True) for y in ys]

    def function(force: Tensor, y0: Tensor, t1: Tensor) -> Tensor:
        return solved(solver, force, y0, t1).sin().sum(0)

    for jacobian in (jacrev, jacfwd):
        found = jacobian(function, (0, 1, 2))(*start())
        for got, rows in zip(found, zip(*want, strict=True), strict=True):
            torch.testing.assert_close(got, torch.stack(rows), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("solver", STEPPED)
def test_vmap_takes_each_member_over_common_steps(solver: str) -> None:
    """Common steps are none of a member's own: the answers agree to the tolerance."""
    _, y0, t1 = start()
    forces = torch.tensor([[1.2, 0.4], [5.0, 1.0], [0.1, 0.0]], dtype=torch.float64)
    loop = torch.stack([solved(solver, force, y0, t1) for force in forces])
    with torch.no_grad():
        found = vmap(lambda force: solved(solver, force, y0, 0.7))(forces)
    fixed = not SOLVERS[solver]().adaptive
    rtol, atol = (1e-12, 1e-13) if fixed else (5e-3, 5e-3)
    torch.testing.assert_close(found, loop, rtol=rtol, atol=atol)


@pytest.mark.parametrize("solver", IMPLICITS)
def test_an_implicit_solver_says_what_to_do_instead(solver: str) -> None:
    force, y0, t1 = start()
    for transform in (jacrev, jacfwd):
        with pytest.raises(ic.InputError, match=r"solver.*torch\.func.*explicit"):
            transform(lambda force: solved(solver, force, y0, t1))(force)
    with pytest.raises(ic.InputError, match="batch of states"):
        vmap(lambda force: solved(solver, force, y0, 0.7))(torch.stack([force, force]))
