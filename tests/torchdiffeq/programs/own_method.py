"""A method of one's own, added to torchdiffeq's solvers as public code does it."""

import sys

import torch
from torchdiffeq._impl.fixed_grid import Euler
from torchdiffeq._impl.misc import Perturb
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl.solvers import FixedGridODESolver

from torchdiffeq import odeint, odeint_adjoint


class Ralston(FixedGridODESolver):
    order = 2

    def __init__(self, func, y0, scale=1.0, **kwargs):
        super().__init__(func, y0, **kwargs)
        self.scale = scale

    def _step_func(self, func, t0, dt, t1, y0):
        f0 = func(t0, y0, perturb=Perturb.NEXT if self.perturb else Perturb.NONE)
        f1 = func(t0 + 2 / 3 * dt, y0 + 2 / 3 * dt * f0)
        return self.scale * dt * (0.25 * f0 + 0.75 * f1), f0


class Clipped(Euler):
    def _step_func(self, func, t0, dt, t1, y0):
        change, f0 = super()._step_func(func, t0, dt, t1, y0)
        return change.clamp(-0.05, 0.05), f0


SOLVERS["ralston"] = Ralston
SOLVERS["clipped"] = Clipped
assert "dopri5" in SOLVERS

try:
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y0 = (torch.ones(2, dtype=torch.float64), torch.ones((), dtype=torch.float64))
    t = torch.tensor([0.0, 0.33, 1.0], dtype=torch.float64)
    field = lambda t, y: (-rate * y[0], t * y[1])  # noqa: E731
    errors = []
    for step in (0.1, 0.05):
        first, second = odeint(field, y0, t, method="ralston", options={"step_size": step})
        exact = torch.exp(-0.7 * t), torch.exp(t**2 / 2)
        errors.append(max((first[:, 0] - exact[0]).abs().max(), (second - exact[1]).abs().max()))
    assert 3.3 < errors[0] / errors[1] < 4.7, errors
    options = {"step_size": 0.01, "perturb": True}
    for solve in (odeint, odeint_adjoint):
        end = solve(field, y0, t, method="ralston", options=options)[0][-1]
        (gradient,) = torch.autograd.grad(end.sum(), rate)
        assert abs(gradient.item() + 2 * torch.tensor(-0.7).exp().item()) < 1e-3
    still = odeint(field, y0, t, method="ralston", options={"step_size": 0.1, "scale": 0.0})
    assert torch.equal(still[0][-1], y0[0])
    slow = odeint(lambda t, y: 100 * y, y0[0], t, method="clipped", options={"step_size": 0.1})
    assert abs(slow[-1, 0].item() - 1.5) < 1e-9
finally:
    del SOLVERS["ralston"], SOLVERS["clipped"]
sys.stdout.write("own method\n")
