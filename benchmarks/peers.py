"""isocline's adaptive methods and its peers' as one kind of thing: problem in, `Run` out.

Every library solves in its own habitat: torchdiffeq and isocline in torch, SciPy in numpy, diffrax
compiled by XLA; all in float64 on one thread, with rtol = atol. The problems' fields are written
once for all (tests/solvers/detest.py).
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

# One thread for XLA, and double precision: to be said before jax is imported.
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["JAX_ENABLE_X64"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "solvers"))

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import torch
from detest import DETEST, Problem
from scipy.integrate import solve_ivp

import isocline as ic
import torchdiffeq

__all__ = ["DETEST", "Candidate", "Problem", "Run", "candidates"]


class Run(NamedTuple):
    """One solve: its error (`Problem.error`), evaluations of the field, and seconds."""

    error: float
    evaluations: int
    seconds: float


AGAIN, SHORT = 3, 0.02
"""A solve shorter than so many seconds is taken so many times in a row; the least time counts."""

Solve = Callable[[float], tuple[Any, int]]
"""tolerance -> (state at the end, evaluations)."""


@dataclass(frozen=True)
class Candidate:
    """A method of a library.

    Attributes:
        library, method: names.
        order: k, where the error estimate is O(h^k): work goes as tolerance^(-1 / k).
        prepare: makes the solve of a problem.
    """

    library: str
    method: str
    order: int
    prepare: Callable[[Problem], Solve]

    @property
    def name(self) -> str:
        return self.method if self.library == "isocline" else f"{self.library} {self.method}"

    def runner(self, problem: Problem) -> Callable[[float], Run | None]:
        """tolerance -> what happened; None where the library gave up."""
        solve = self.prepare(problem)

        def run(tol: float) -> Run | None:
            least = math.inf
            for _ in range(AGAIN):  # the first finds the caches full of another library
                began = perf_counter()
                try:
                    end, evaluations = solve(tol)
                except (ic.IsoclineError, AssertionError, RuntimeError):
                    return None
                least = min(least, perf_counter() - began)
                if least > SHORT:
                    break
            return Run(problem.error(end), evaluations, least)

        return run


def isoclines(method: Any) -> Callable[[Problem], Solve]:
    def prepare(problem: Problem) -> Solve:
        y0 = problem.start()

        def solve(tol: float) -> tuple[Any, int]:
            with torch.no_grad():
                sol = ic.solve(
                    problem, y0, 0.0, problem.t1, solver=method, rtol=tol, atol=tol, max_steps=10**6
                )
            return sol.ys[-1], sol.stats.nfe_forward

        return solve

    return prepare


class Counted:
    """A field that counts its calls."""

    def __init__(self, field: Callable[[Any, Any], Any]) -> None:
        self.field, self.calls = field, 0

    def __call__(self, t: Any, y: Any) -> Any:
        self.calls += 1
        return self.field(t, y)


def torchdiffeqs(method: str) -> Callable[[Problem], Solve]:
    def prepare(problem: Problem) -> Solve:
        y0, ts = problem.start(), torch.tensor([0.0, problem.t1], dtype=torch.float64)

        def solve(tol: float) -> tuple[Any, int]:
            field = Counted(problem)
            with torch.no_grad():
                states = torchdiffeq.odeint(field, y0, ts, rtol=tol, atol=tol, method=method)
            return states[-1], field.calls

        return solve

    return prepare


def scipys(method: str) -> Callable[[Problem], Solve]:
    def prepare(problem: Problem) -> Solve:
        def solve(tol: float) -> tuple[Any, int]:
            field = Counted(lambda t, y: problem.field(np, t, y))
            span = (0.0, problem.t1)
            found = solve_ivp(field, span, problem.y0, method=method, rtol=tol, atol=tol)
            if not found.success:
                raise RuntimeError(found.message)
            return found.y[:, -1], field.calls

        return solve

    return prepare


def diffraxes(solver: Any) -> Callable[[Problem], Solve]:
    def prepare(problem: Problem) -> Solve:
        run = jax.jit(lambda tol: diffrax_solve(solver, problem, tol))
        run(1e-3)  # compiles
        per_solve, per_step = diffrax_evaluations(solver)

        def solve(tol: float) -> tuple[Any, int]:
            end, steps = run(tol)
            return np.asarray(end), per_solve + per_step * int(steps)

        return solve

    return prepare


def diffrax_solve(
    solver: Any, problem: Problem, tol: Any, called: Callable[[], None] | None = None
) -> tuple[Any, Any]:
    """End and number of steps, rejected ones among them."""

    def field(t: Any, y: Any, args: Any) -> Any:
        if called is not None:
            jax.debug.callback(called)
        return problem.field(jnp, t, y)

    found = diffrax.diffeqsolve(
        diffrax.ODETerm(field), solver, 0.0, problem.t1, None, jnp.asarray(problem.y0, float),
        stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol), max_steps=10**6,
    )  # fmt: skip
    return found.ys[-1], found.stats["num_steps"]


@cache
def diffrax_evaluations(solver: Any) -> tuple[int, int]:
    """Evaluations of a solve and, besides, of each step: diffrax does not count, so we do."""
    points = []
    for tol in (1e-3, 1e-6):
        calls: list[None] = []
        _, steps = diffrax_solve(solver, DETEST["E2"], tol, lambda calls=calls: calls.append(None))
        jax.effects_barrier()
        points.append((int(steps), len(calls)))
    (few, less), (many, more) = points
    per_step, rest = divmod(more - less, many - few)
    if rest:
        raise SystemExit(f"{solver} does not take the same evaluations for every step")
    return less - per_step * few, per_step


def settles(method: Any) -> bool:
    """Whether constant steps of 0.1 bring y' = -y to rest: an undamped method blows up."""
    end = ic.solve(
        lambda t, y: -y, torch.ones(1, dtype=torch.float64), 0.0, 20.0,
        solver=method, controller=ic.Constant(), dt0=0.1, throw=False,
    ).ys[-1]  # fmt: skip
    return bool(end.abs() < 1e-3)


def candidates() -> list[Candidate]:
    """All that are compared: every adaptive method of isocline's registry, and the peers'."""
    ours = [method() for method in ic.solvers.SOLVERS.values() if method().adaptive]
    mine = [
        Candidate("isocline", method.name, method.error_order, isoclines(method))
        for method in ours
        if settles(method)
    ]
    theirs = {
        ("torchdiffeq", torchdiffeqs): {"adaptive_heun": 2, "bosh3": 3, "dopri5": 5, "dopri8": 8},
        ("SciPy", scipys): {"RK23": 3, "RK45": 5, "DOP853": 8, "LSODA": 5},
        ("diffrax", diffraxes): {
            diffrax.Tsit5(): 5, diffrax.Dopri5(): 5, diffrax.Dopri8(): 8,
        },
    }  # fmt: skip
    peers = [
        Candidate(
            library, name if isinstance(name, str) else type(name).__name__, order, make(name)
        )
        for (library, make), methods in theirs.items()
        for name, order in methods.items()
    ]
    return [*mine, *peers]
