"""Work against precision on DETEST: every adaptive method beside torchdiffeq, SciPy and diffrax.

Writes docs/results/solvers.md and its figures. Every candidate solves the 25 problems at the
tolerances 1e-3 ... 1e-10 (methods of low order: as far as they come in reasonable time), in turn.

    python benchmarks/work_precision.py [--rounds 2] [--out docs/results/solvers.md]
"""

from __future__ import annotations

import argparse
import platform
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import torch
from peers import DETEST, Candidate, Run, candidates
from work_figures import by_problem, families
from work_tables import Measured, claims, promise, work

import isocline as ic

TOLERANCES = [10.0**-k for k in range(3, 11)]
DEAREST = 220.0
"""Of tolerance^(-1 / k), which the number of steps goes with: order 3 stops at 1e-7."""


def affordable(candidate: Candidate) -> list[float]:
    """Tolerances that the candidate is run at."""
    return [tol for tol in TOLERANCES if tol ** (-1 / candidate.order) <= DEAREST]


def measure(entrants: list[Candidate], rounds: int) -> Measured:
    """Errors and evaluations of all, with the least time over the rounds."""
    runs: dict[tuple[str, str, float], list[Run]] = defaultdict(list)
    for name, problem in DETEST.items():
        runners = {entrant: entrant.runner(problem) for entrant in entrants}
        for _ in range(rounds):
            for tol in TOLERANCES:
                for entrant, run in runners.items():
                    if tol in affordable(entrant):
                        runs[entrant.name, name, tol] += filter(None, [run(tol)])
    least = {key: min(found, key=lambda run: run.seconds) for key, found in runs.items() if found}
    return {key: least.get(key) for key in runs}


def page(entrants: list[Candidate], measured: Measured, rounds: int) -> str:
    """The page."""
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("torchdiffeq", "scipy", "diffrax", "jax")
    )
    here = {entrant.name for entrant in entrants}
    adaptive = [method() for method in ic.solvers.SOLVERS.values() if method().adaptive]
    absent = " and ".join(f"`{m.name}`" for m in adaptive if m.name not in here)
    return f"""# Work and precision of the solvers

The 25 problems of DETEST (Hull, Enright, Fellen and Sedgwick, 1972), t from 0 to 20, float64,
rtol = atol = 1e-3 ... 1e-10, solved by every adaptive method of isocline and by its peers. An
error is the largest |error| / (1 + |y|) of the components at the end, against references good to
1e-15. Evaluations of the field are counted as they happen. Controllers, safety factors and first
steps are each library's defaults. Times are the least of {rounds} interleaved rounds, on one
core: isocline {ic.__version__}, torch {torch.__version__}, {versions}, Python
{platform.python_version()}. isocline and torchdiffeq evaluate the field in torch, SciPy in numpy,
and diffrax has all of it compiled by XLA: on states of 1 to 51 numbers the times compare these
habitats more than methods. Made by `make bench-work`.

Left out are {absent}: methods without damping, which are for other things (a decaying component
comes back in them).

## Evaluations for the same error

{claims(measured)}

Below 1 isocline needs fewer evaluations. For each problem both curves of error against
evaluations are interpolated (in logarithms) wherever both have points, between errors of 1e-3 and
1e-10; the ratio is the geometric mean, first over these errors, then over the problems. A curve
is the least work that reached an error at any tolerance tried.

![Error against evaluations and time, methods of order 5 and 6](solvers-middle.png)

![The same for orders 7 to 9](solvers-high.png)

![The same for orders 2 and 3](solvers-low.png)

A point is a tolerance: the geometric mean of the 25 errors, over that of the evaluations, or of
the times. Left and below is better.

![Error against evaluations, problem by problem](solvers-problems.png)

torchdiffeq's `adaptive_heun` needs fewer evaluations than our `heuneuler`: it starts each step
with the slope that the last stage of the step before had, at the state that Euler's step
predicted rather than at the one that was reached. That saves one evaluation of two, and keeps the
order; ours evaluates where it stands. In its `dopri8` the same habit, and the interpolated end,
cost accuracy: error goes with the tolerance to the power of the last column below.

## All methods

{work(entrants, measured)}

Evaluations for a given error, relative to the default's (geometric mean over the problems where
both reach it); then microseconds for an evaluation, with all that the solver does besides: the
median over the problems at 1e-6 (1e-4 for order 2).

## What a tolerance holds

{promise(entrants, measured)}

How many tolerances the end of the solve is off: median and worst over problems and tolerances,
and the share beyond 50; the worst in units of the problem's condition; and the slope of log error
against log tolerance (median of 25 least-squares fits), which is 1 where the error goes with the
tolerance.

A tolerance bounds the error of a step, not of the end. What becomes of an error made on the way
is the problem's doing: its *condition* here is the largest factor by which an error of one
tolerance, made where that is worst, can have grown by the end. It is 1 to 18 for 17 of the
problems, 34 for B1, 55 for B5, 91 for C5, and 310, 530, 650, 780 and 4100 for the orbits D1 to
D5, where an error of energy becomes one of phase that grows with every turn. Beyond 50 tolerances
are above all these orbits, for nearly all methods of all libraries.

A3 is a single equation: one number alone estimates the error of its step, and where that number
passes through zero a step may be taken that is far off. DOP853 does so at 1e-8, in SciPy at the
same step, and BS5 at 1e-3. `rkc` does not extrapolate: every step errs by what it is allowed, so
ends are off by more tolerances the more steps there are.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/results/solvers.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    everyone = candidates()
    results = measure(everyone, options.rounds)
    options.out.write_text(page(everyone, results, options.rounds))
    families(everyone, results, options.out)
    by_problem(results, options.out)
