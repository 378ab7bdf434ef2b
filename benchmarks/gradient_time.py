"""A training step by each adjoint, beside torchdiffeq and diffrax, in one interleaved run a field.

Solve, loss and gradient of weights and initial state, float32, on one thread: dopri5 and the
averaged norm on all sides, and isocline's own defaults besides. Every candidate runs at several
tolerances, so that times can be compared at equal accuracy: of the state at the end, and of the
gradient, both against a solve in float64. Writes the parts of the page that are on time, and what
the candidates hold in memory on the convolutional field.

    python benchmarks/gradient_time.py [--rounds 9] [--cases mlp1 mlp128 wide conv]
                                       [--out docs/results/gradients.md]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gradient_fields import CASES, Case, Counted
from gradient_page import PAGE, adjoints, write_part
from gradient_tables import DEFAULT, PLAIN, Held, Measured, head, memory_table, report
from timing import interleaved
from torch import Tensor

import isocline as ic
from isocline.diagnosis.costs import peak_bytes

Step = Callable[[float], tuple[np.ndarray, np.ndarray]]
"""tolerance -> state at the end and gradient, as vectors in double precision."""


class Torch:
    """A training step by libraries of torch."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.field, y0 = case.build()
        self.y0 = y0.requires_grad_()

    def steps(self) -> dict[str, Callable[[float], Tensor]]:
        """The state at the end, by candidate and tolerance."""
        import torchdiffeq

        end = self.case.end
        t = torch.tensor([0.0, end])

        def ours(adjoint: Any = None, **how: Any) -> Callable[[float], Tensor]:
            how = how or {"solver": "dopri5", "norm": "rms"}

            def run(tol: float) -> Tensor:
                ys = ic.solve(
                    self.field, self.y0, 0.0, end, rtol=tol, atol=tol / 10, adjoint=adjoint, **how
                ).ys
                return ys[-1]  # type: ignore[no-any-return]

            return run

        def theirs(odeint: Callable[..., Tensor]) -> Callable[[float], Tensor]:
            return lambda tol: odeint(
                self.field, self.y0, t, rtol=tol, atol=tol / 10, method="dopri5"
            )[-1]

        found = {DEFAULT: ours(solver="tsit5")}
        for name, adjoint in adjoints().items():
            if name not in ("Forward", "StepBack", "Checkpointed, 64 slots"):
                found[f"isocline {name}"] = ours(adjoint)
        found["isocline Checkpointed, 16 MiB"] = ours(ic.Checkpointed(graph_budget=2**24))
        if hasattr(ic, "StepBack"):
            how = {"solver": ic.Reversible(ic.Dopri5()), "norm": "rms"}
            found["isocline StepBack, Reversible"] = ours(ic.StepBack(), **how)
        found[PLAIN] = theirs(torchdiffeq.odeint)
        found[f"{PLAIN}_adjoint"] = theirs(torchdiffeq.odeint_adjoint)
        return found

    def train(self, step: Callable[[float], Tensor], tol: float) -> Tensor:
        """Solve, loss, backward; the end."""
        self.field.zero_grad()
        self.y0.grad = None
        end = step(tol)
        loss(end).backward()
        return end

    def gradient(self) -> np.ndarray:
        found = [self.y0, *self.field.parameters()]
        return np.concatenate([one.grad.double().flatten().numpy() for one in found])

    def candidates(self) -> dict[str, Step]:
        def complete(step: Callable[[float], Tensor]) -> Step:
            def run(tol: float) -> tuple[np.ndarray, np.ndarray]:
                end = self.train(step, tol)
                return end.detach().double().flatten().numpy(), self.gradient()

            return run

        return {name: complete(step) for name, step in self.steps().items()}

    def exact(self) -> tuple[np.ndarray, np.ndarray]:
        """End and gradient in double precision, at a tight tolerance."""
        twin = Torch(self.case)
        twin.field = deepcopy(self.field).double()
        twin.y0 = self.y0.detach().double().requires_grad_()
        solver, tol = self.case.exact

        def step(tol: float) -> Tensor:
            return ic.solve(
                twin.field, twin.y0, 0.0, self.case.end, solver=solver, rtol=tol, atol=tol
            ).ys[-1]  # type: ignore[no-any-return]

        end = twin.train(step, tol)
        return end.detach().flatten().numpy(), twin.gradient()


def loss(end: Any) -> Any:
    """The same in torch and jax."""
    return (end * end).mean()


def diffraxes(case: Case, field: Counted, y0: Tensor) -> dict[str, Step]:
    """Candidates of diffrax, compiled, the tolerance an argument."""
    import diffrax
    import jax
    from gradient_fields import to_jax

    rate, weights = case.rewrite(field)
    start = to_jax(y0)

    def candidate(adjoint: Any) -> Step:
        def lost(given: tuple[Any, Any], tol: Any) -> tuple[Any, Any]:
            weights, start = given
            end = diffrax.diffeqsolve(
                diffrax.ODETerm(rate), diffrax.Dopri5(), 0.0, case.end, None, start, weights,
                stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol / 10),
                adjoint=adjoint, max_steps=1024,
            ).ys[-1]  # fmt: skip
            return loss(end), end

        compiled = jax.jit(jax.value_and_grad(lost, has_aux=True))

        def run(tol: float) -> tuple[np.ndarray, np.ndarray]:
            (_, end), (of_weights, of_start) = compiled((weights, start), tol)
            gradients = [of_start, *in_torchs_order(of_weights)]
            flat = np.concatenate([np.asarray(one, np.float64).ravel() for one in gradients])
            return np.asarray(end, np.float64).ravel(), flat

        return run

    def in_torchs_order(found: Any) -> list[np.ndarray]:
        if isinstance(found, dict):
            return [found[name] for name, _ in field.net.named_parameters()]
        return [np.asarray(one).T for layer in found for one in layer]

    return {
        "diffrax RecursiveCheckpoint": candidate(diffrax.RecursiveCheckpointAdjoint()),
        "diffrax Backsolve": candidate(diffrax.BacksolveAdjoint()),
    }


def measure(case: Case, rounds: int) -> dict[tuple[str, float], Measured]:
    """Every candidate at every tolerance, in one interleaved run."""
    ours = Torch(case)
    every = {**ours.candidates(), **diffraxes(case, ours.field, ours.y0)}
    end, gradient = ours.exact()
    runs: dict[tuple[str, float], Callable[[], object]] = {}
    known: dict[tuple[str, float], tuple[int, float, float]] = {}
    for name, step in every.items():
        for tol in case.tolerances:
            Counted.evaluations = 0
            try:
                found_end, found_gradient = step(tol)
            except ic.IsoclineError as error:
                print(f"{case.name}, {name}, {tol:g}: {error}", file=sys.stderr)
                continue
            counted = 0 if name.startswith("diffrax") else Counted.evaluations
            known[name, tol] = counted, off(found_end, end), off(found_gradient, gradient)
            runs[name, tol] = lambda step=step, tol=tol: step(tol)  # type: ignore[misc]
    timings = interleaved({str(key): run for key, run in runs.items()}, rounds, warm_up=0)
    return {key: Measured(timings[str(key)], *known[key]) for key in runs}


def off(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def memory_of(name: str) -> list[Held]:
    """What one candidate holds on the conv field, in this process, from few steps to many."""
    case = CASES["conv"]
    torch.set_num_threads(1)
    ours = Torch(case)
    step = ours.steps()[name]
    ours.train(step, case.tolerances[0])  # the gradients stay, and are no cost of the next run
    found = []
    for tol in (*case.tolerances, 1e-6):
        Counted.evaluations = 0
        memory = peak_bytes(lambda tol=tol: ours.train(step, tol))  # type: ignore[misc]
        assert memory is not None
        found.append(Held(tol, Counted.evaluations, memory))
    return found


def memories() -> dict[str, list[Held]]:
    """The same of all candidates, in a process of its own each."""
    found: dict[str, list[Held]] = {}
    for name in Torch(CASES["conv"]).steps():
        command = [sys.executable, __file__, "--memory-of", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode == 0:
            found[name] = [Held(*row) for row in json.loads(done.stdout)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--memory-of", help="measure this candidate alone, and print JSON")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        print(json.dumps(memory_of(options.memory_of)))
        return
    write_part(options.out, "time", head())
    for key in options.cases:
        rounds = max(2, round(options.rounds * CASES[key].share))
        write_part(options.out, key, report(CASES[key], measure(CASES[key], rounds), rounds))
        print(f"{key}: done", flush=True)
    if "conv" in options.cases:
        write_part(options.out, "held", memory_table(memories()))


if __name__ == "__main__":
    main()
