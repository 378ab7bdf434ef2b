"""Van der Pol's oscillators of many stiffnesses, by isocline, torchode and diffrax.

Every candidate takes whether a gradient is wanted, and gives the states at the end, (batch, 2). The
gradient is that of their sum, to the stiffnesses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchode_peer import torchode

import isocline as ic

__all__ = ["BATCH", "MU", "SPAN", "START", "TOL", "ends_of", "oscillator", "peers", "solve"]

BATCH, SPAN, TOL = 256, 20.0, 1e-5
MU = torch.linspace(2.0, 50.0, BATCH, dtype=torch.float64)
START = torch.tensor([[2.0, 0.0]], dtype=torch.float64).repeat(BATCH, 1)

Run = Callable[[bool], Any]


def oscillator(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack([v, mu * (1 - x * x) * v - x], -1)


def solve(stepping: Any, *, grad: bool, tol: float = TOL, compile: bool = False) -> ic.Solution:
    """One solve of the batch, and its backward pass if that is wanted."""
    mu = MU.clone().requires_grad_(grad)
    with torch.set_grad_enabled(grad):
        found = ic.solve(
            oscillator, START, 0.0, SPAN, args=(ic.PerSample(mu),), solver="dopri5", rtol=tol,
            atol=tol, stepping=stepping, compile=compile,
        )  # fmt: skip
        if grad:
            found.ys.sum().backward()
    return found


def ends_of(stepping: Any, compile: bool, grad: bool) -> Tensor:
    return solve(stepping, grad=grad, compile=compile).ys[-1]  # type: ignore[no-any-return]


def of_torchode(compiled: bool) -> Run:
    """torchode, whose steps are each sample's own too; its steps' lengths carry no graph."""
    term = torchode.ODETerm(oscillator, with_args=True)
    control = torchode.IntegralController(atol=TOL, rtol=TOL, term=term)
    solver = torchode.AutoDiffAdjoint(
        torchode.Dopri5(term=term), control, backprop_through_step_size_control=False
    )
    start = torch.zeros(BATCH, dtype=torch.float64)
    problem = torchode.InitialValueProblem(y0=START, t_start=start, t_end=start + SPAN)
    go = torch.compile(solver.solve) if compiled else solver.solve

    def run(grad: bool) -> Tensor:
        mu = MU.clone().requires_grad_(grad)
        with torch.set_grad_enabled(grad):
            found = go(problem, args=mu).ys[:, -1]
            if grad:
                found.sum().backward()
        return found  # type: ignore[no-any-return]

    return run


def of_diffrax() -> Run:
    """diffrax under vmap, compiled by XLA."""
    import diffrax
    import jax
    import jax.numpy as jnp

    def field(t: Any, y: Any, mu: Any) -> Any:
        return jnp.stack([y[1], mu * (1 - y[0] * y[0]) * y[1] - y[0]])

    def end(mu: Any) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Dopri5(), 0.0, SPAN, None, jnp.array([2.0, 0.0]),
            args=mu, stepsize_controller=diffrax.PIDController(rtol=TOL, atol=TOL), max_steps=16**4,
        ).ys[-1]  # fmt: skip

    def summed(mu: Any) -> Any:
        ends = jax.vmap(end)(mu)
        return ends.sum(), ends

    mu = jnp.asarray(MU.numpy())
    forward, backward = jax.jit(jax.vmap(end)), jax.jit(jax.grad(summed, has_aux=True))

    def run(grad: bool) -> Tensor:
        ends = backward(mu)[1] if grad else forward(mu)
        return torch.from_numpy(np.array(jax.block_until_ready(ends)))

    return run


def peers() -> dict[str, Run]:
    """All candidates by their names, isocline's per-sample stepping first."""
    return {
        "isocline, per sample, compiled": partial(ends_of, "per_sample", True),
        "isocline, per sample": partial(ends_of, "per_sample", False),
        "isocline, joint, compiled": partial(ends_of, "joint", True),
        "isocline, joint": partial(ends_of, "joint", False),
        "torchode": of_torchode(compiled=False),
        "torchode, compiled": of_torchode(compiled=True),
        "diffrax, vmap": of_diffrax(),
    }
