"""Accuracy on DETEST: what a tolerance asks for and what the end of the solve keeps of it.

The measure is the largest |error| / (1 + |y|) over the components at the end, in tolerances, with
rtol = atol. A tolerance bounds the error of a step; what becomes of that by the end is the
problem's doing, and known (`Problem.condition`): a factor of 1 to 18 for most, of 55 to 4100 for
the long orbits of B5, C5 and D. So an end may be off by 50 tolerances times the condition; by 100
where the equation is single, for the one number that estimates its error passes through zero now
and then.

Two things bear on every method alike. One whose solution is of lower order than its error estimate
(no local extrapolation) makes errors as large as the tolerance in every step, so that their number
counts. And an undamped method, such as a reversible one, keeps what it should forget: those that
do not bring y' = -y to rest are left to the tests of what they are for.

Work goes as tol^(-1/k) for an error estimate of order k. That number decides, for every method
alike, which tolerances are tested at once, which under `slow`, and which not at all: at once the
tightest that is cheap.
"""

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.func import jacfwd, vmap

import isocline as ic
from isocline.state import Packing

from ..known import ADAPTIVE, promise
from .detest import ARENSTORF, DETEST, PLEIADES, Problem

TOLERANCES = [10.0**-k for k in range(3, 11)]
QUICK, LONG = 7.0, 4e3
PROBLEMS = [*DETEST.values(), PLEIADES, ARENSTORF]
EVERY_PROBLEM = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
ORBITS = pytest.mark.parametrize("problem", [PLEIADES, ARENSTORF], ids=lambda problem: problem.name)


def settles(method: Any) -> bool:
    """Whether constant steps of 0.4 bring y' = -y to rest."""
    y0 = torch.ones(1, dtype=torch.float64)
    steps = {"controller": ic.Constant(), "dt0": 0.4}
    end = ic.solve(lambda t, y: -y, y0, 0.0, 20.0, solver=method(), throw=False, **steps).ys[-1]
    return bool(end.abs() < 1e-3)


DAMPED = [method for method in ADAPTIVE if settles(method)]


def steps(method: Any, tol: float) -> float:
    """The number of steps, up to a constant of the problem."""
    return float(tol ** (-1 / method().error_order))


def cheap(method: Any) -> float:
    """The tightest tolerance that takes few steps, or the loosest of all."""
    return min(tol for tol in TOLERANCES if steps(method, tol) <= QUICK or tol == TOLERANCES[0])


def affordable(tolerances: list[float]) -> Any:
    """Pairs of method and tolerance: the dearer ones marked slow, the dearest left out."""
    pairs = [
        pytest.param(
            method,
            tol,
            id=f"{method.__name__}-{tol:.0e}",
            marks=[] if tol == cheap(method) else [pytest.mark.slow],
        )
        for method in DAMPED
        for tol in tolerances
        if steps(method, tol) <= LONG
    ]
    return pytest.mark.parametrize(("method", "tol"), pairs)


def allowed(problem: Problem, method: Any, tol: float) -> float:
    """How many tolerances the end may be off."""
    single = 2 if len(problem.y0) == 1 else 1
    return 50 * single * problem.condition * promise(method, tol) / tol


@functools.cache
def off_by(problem: Problem, tol: float, method: Any = None) -> float:
    """How many tolerances the end is off, with `method` or the default."""
    chosen = {} if method is None else {"solver": method()}
    with torch.no_grad():
        sol = ic.solve(
            problem, problem.start(), 0.0, problem.t1, rtol=tol, atol=tol, max_steps=10**7, **chosen
        )
    return problem.error(sol.ys[-1]) / tol


# --- solvers ---------------------------------------------------------------------------------


@affordable(TOLERANCES)
def test_an_end_is_off_by_fifty_tolerances_times_the_condition_at_most(
    method: Any, tol: float
) -> None:
    off = {name: off_by(problem, tol, method) for name, problem in DETEST.items()}
    limits = {name: allowed(problem, method, tol) for name, problem in DETEST.items()}
    beyond = {name: (off[name], limits[name]) for name in DETEST if not off[name] <= limits[name]}
    assert not beyond, f"tolerances off, and allowed: {beyond}"


@affordable([1e-10])
@ORBITS
def test_hard_orbits_end_within_their_condition(method: Any, tol: float, problem: Problem) -> None:
    assert off_by(problem, tol, method) <= allowed(problem, method, tol) / 50


def test_methods_without_damping_are_reversible_ones() -> None:
    """Nothing else is spared the tests above: these can take a step back, and damp for it less."""
    packing = Packing.of(torch.zeros(1))
    undamped = [method for method in ADAPTIVE if method not in DAMPED]
    assert all(hasattr(method().bind(lambda t, y: -y, packing), "back") for method in undamped)


@pytest.mark.parametrize("decades", [5, pytest.param(8, marks=pytest.mark.slow)])
def test_errors_of_the_default_go_with_the_tolerance(decades: int) -> None:
    """Error ~ tol^slope, by least squares over some decades: the median and mean of 25 slopes."""
    tolerances = TOLERANCES[:decades]
    slopes = [
        np.polyfit(np.log(tolerances), [math.log(off_by(p, tol) * tol) for tol in tolerances], 1)[0]
        for p in DETEST.values()
    ]
    assert 0.85 <= np.median(slopes) <= 1.15, slopes
    assert 0.85 <= np.mean(slopes) <= 1.15, slopes


# --- the problems themselves -----------------------------------------------------------------


@EVERY_PROBLEM
def test_the_ends_are_those_that_scipy_finds(problem: Problem) -> None:
    """At 1e-13: within what the problem makes of twenty such errors."""
    found = solve_ivp(
        lambda t, y: problem.field(np, t, y),
        (0, problem.t1),
        problem.y0,
        method="DOP853",
        rtol=1e-13,
        atol=1e-13,
    )
    assert problem.error(found.y[:, -1]) <= 20 * problem.condition * 1e-13


def kepler(eccentricity: float, t: float) -> tuple[float, ...]:
    """An orbit from Kepler's equation, by Newton's iteration."""
    e, angle = eccentricity, t
    for _ in range(50):
        angle -= (angle - e * math.sin(angle) - t) / (1 - e * math.cos(angle))
    s, c, side = math.sin(angle), math.cos(angle), math.sqrt(1 - e * e)
    return (c - e, side * s, -s / (1 - e * c), side * c / (1 - e * c))


def bessel(x: float) -> tuple[float, float]:
    """J of order 1/2 and its derivative."""
    size = math.sqrt(2 / (math.pi * x))
    return size * math.sin(x), size * (math.cos(x) - math.sin(x) / (2 * x))


CLOSED = {
    "A1": (math.exp(-20),),
    "A2": (1 / math.sqrt(21),),
    "A3": (math.exp(math.sin(20)),),
    "A4": (20 / (1 + 19 * math.exp(-5)),),
    "B4": ((2 + math.cos(20)) * math.cos(20), (2 + math.cos(20)) * math.sin(20), math.sin(20)),
    **{f"D{i}": kepler(0.2 * i - 0.1, 20.0) for i in range(1, 6)},
    "E1": bessel(21.0),
    "E4": (
        30 + math.log(math.cosh(20 * math.sqrt(0.0128))) / 0.4,
        math.sqrt(0.08) * math.tanh(20 * math.sqrt(0.0128)),
    ),
    "E5": (12.5 * math.log(5) - 6, 2.4),
}


@pytest.mark.parametrize("name", CLOSED)
def test_the_ends_are_those_of_closed_forms(name: str) -> None:
    """To rounding, of the closed form and of the start."""
    problem = DETEST[name]
    assert (
        problem.error(torch.tensor(CLOSED[name], dtype=torch.float64)) <= 4e-16 * problem.condition
    )


@EVERY_PROBLEM
def test_the_conditions_are_as_stated(problem: Problem) -> None:
    """By the transition matrices to the end, of Magnus' method of order 4 over each step."""
    tol = 1e-9 if problem.condition > 50 else 1e-7  # a long orbit takes up more of an error
    save = ic.SaveAt(t0=True, steps=True, dense=True)
    with torch.no_grad():
        sol = ic.solve(problem, problem.start(), 0.0, problem.t1, rtol=tol, atol=tol, save=save)
    lengths = sol.ts.diff()

    def jacobians(part: float) -> Tensor:
        times = sol.ts[:-1] + part * lengths
        return lengths[:, None, None] * vmap(jacfwd(problem, argnums=1))(times, sol(times))

    a, b = (jacobians(0.5 + sign * math.sqrt(3) / 6) for sign in (-1, 1))  # at Gauss's nodes
    over_a_step = torch.matrix_exp((a + b) / 2 - math.sqrt(3) / 12 * (a @ b - b @ a))
    sizes = 1 + sol.ys.abs()
    to_the_end = [torch.eye(len(problem.y0), dtype=torch.float64)]
    for matrix in over_a_step.flip(0):
        to_the_end.append(to_the_end[-1] @ matrix)
    scaled = torch.stack(to_the_end[::-1]) * sizes[:, None, :] / sizes[-1][:, None]
    condition = math.sqrt(len(problem.y0)) * scaled.norm(dim=2).max().item()
    assert problem.condition == pytest.approx(condition, rel=0.05)
