"""Compiled speed beside torchdiffeq, torchode and diffrax, in one interleaved run a workload.

Same field, weights, method (Dormand-Prince 5), tolerances, averaged norm (torchode's is by sample),
float32, one thread. Errors are of the states against a solve in float64 at 1e-12.

    python benchmarks/compiled_speed.py [--cases mlp1 ...] [--scale 1.0]
                                        [--out docs/results/speed.md]
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speed_cases import CASES, Workload
from timing import Timing, interleaved
from torch import Tensor, nn
from torchode_peer import torchode

import isocline as ic
import torchdiffeq

OURS, PLAIN, ADJOINT, TORCHODE, DIFFRAX = (
    "isocline, compiled",
    "torchdiffeq odeint",
    "torchdiffeq odeint_adjoint",
    "torchode",
    "diffrax",
)
EAGER, BARE = "isocline, eager", "bare compiled field x evaluations"

INTRODUCTION = """\
Same field, weights, method (Dormand-Prince 5), tolerances and averaged norm (torchode's is by
sample), float32, one thread, one interleaved run a table: in every round each has a turn of 50
milliseconds, one call at least, and its time is the mean of a call in it. Training is solve, loss
and gradient of weights and initial state. Evaluations are counted forward and backward where the
field is called from Python, and forward alone for the compiled solve. Errors are the largest of the
states, against a solve in double precision. isocline {isocline}, torchdiffeq {torchdiffeq},
torchode 1.0.1, diffrax {diffrax}, torch {torch}, Python {python}. Made by `make bench`; read the
ratios, for absolute times vary with the machine."""

LIMITS = """\
## What limits it

- Batch 1, forward: steps are functions of isocline's own, without tensors inside, some 9
  microseconds each, so that Python is half of a solve: arguments, what the field holds compared
  before the solve, a result wrapped. XLA runs a solve as one program. Where other work has emptied
  the processor's caches before each call, a solve takes 1.3 milliseconds and diffrax's 1.0 (in one
  run of single calls in turn: 49 times torchdiffeq's speed, 41 torchode's, 0.78 diffrax's; training
  24, 57 for `odeint_adjoint`, 27, 1.46).
- Batch 128, forward: 38 % of the time are products of 128x64 by 64x64 (kernels of isocline's own),
  24 % what is element by element (tanh, sums over stages, the error), 16 % Python, 20 % making and
  releasing tensors between the kernels, which XLA's program does not have.
- Wide layers: a training step is 16 GFLOP of matrix products, which MKL does at 60 to 72 GFLOP/s
  (512x256 by 256x256): two thirds of the time. Uncompiled libraries call the same.
- Convolutions: 54 of torch's convolutions and 48 of their gradients are six tenths of the time; the
  rest is normalisation and what is fused with it.
- A first solve in a new process with everything in the cache (2-64-64-2, batch 128, after `import
  torch, isocline`) takes 0.29 s forward and 0.32 s in training, on the wall, the larger of two, and
  imports no compiler. Where the field [cannot be told from its description](../compile.md) it has
  to be traced: 4.5 to 5.5 and 5.8 to 8 s, a third of it the import of torch._dynamo.
- On a GPU nothing was measured: the [graphs for it](../compile.md#on-a-gpu) were recorded on the
  CPU alone.
"""

Solve = Callable[[], Any]
"""The states at all times but the first."""


class Counting(nn.Module):
    """A field that counts its evaluations."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field, self.calls = field, 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self.field(t, y)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Measured:
    """A candidate: its times, evaluations (0 if not known), and error of the states."""

    timing: Timing
    evaluations: int
    error: float


def by_torch(case: Workload, field: nn.Module, y0: Tensor) -> dict[str, Solve]:
    """The candidates of torch."""
    t = torch.tensor(case.times)
    ends = ic.SaveAt(ts=case.times[1:])
    start, end = case.times[0], case.times[-1]

    def ours(compile: bool) -> Solve:
        def run() -> Tensor:
            how: dict[str, Any] = {"save": ends} if len(case.times) > 2 else {}
            return ic.solve(
                field, y0, start, end, solver="dopri5", rtol=case.rtol, atol=case.atol,
                norm="rms", compile=compile, **how,
            ).ys  # fmt: skip

        return run

    def theirs(odeint: Callable[..., Tensor]) -> Solve:
        how = {"rtol": case.rtol, "atol": case.atol, "method": "dopri5"}
        return lambda: odeint(field, y0, t, **how)[1:]

    def torchodes() -> Solve:
        shape, batch = y0.shape, y0.shape[0]
        term = torchode.ODETerm(lambda t, y: field(t, y.view(shape)).flatten(1))
        control = torchode.IntegralController(atol=case.atol, rtol=case.rtol, term=term)
        solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), control)
        when = t.repeat(batch, 1)

        def run() -> Tensor:
            given = torchode.InitialValueProblem(y0=y0.flatten(1), t_eval=when)
            found = solver.solve(given).ys[:, 1:]
            return found.transpose(0, 1).reshape(-1, *shape)  # type: ignore[no-any-return]

        return run

    return {
        OURS: ours(True),
        EAGER: ours(False),
        PLAIN: theirs(torchdiffeq.odeint),
        ADJOINT: theirs(torchdiffeq.odeint_adjoint),
        TORCHODE: torchodes(),
    }


def by_jax(case: Workload, field: nn.Module, y0: Tensor) -> dict[str, dict[str, Solve]]:
    """diffrax, forward and in training, compiled once."""
    import diffrax
    import jax
    import jax.numpy as jnp

    rate, weights = case.rewrite(field)
    start = jnp.asarray(y0.detach().numpy())
    # As it is quickest: a single output needs no interpolation, and memory grows with max_steps.
    ends = jnp.asarray(case.times[1:])
    save = diffrax.SaveAt(t1=True) if len(ends) == 1 else diffrax.SaveAt(ts=ends)

    def solve(weights: Any, start: Any) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(rate), diffrax.Dopri5(), case.times[0], case.times[-1], None, start,
            weights, saveat=save, max_steps=1024,
            stepsize_controller=diffrax.PIDController(rtol=case.rtol, atol=case.atol),
        ).ys  # fmt: skip

    def lost(weights: Any, start: Any) -> Any:
        found = solve(weights, start)
        return (found * found).mean(), found

    forward = jax.jit(solve)
    training = jax.jit(jax.value_and_grad(lost, argnums=(0, 1), has_aux=True))
    return {
        "forward": {DIFFRAX: lambda: forward(weights, start).block_until_ready()},
        "training": {DIFFRAX: lambda: jax.block_until_ready(training(weights, start))},
    }


def trained(field: nn.Module, solve: Solve) -> Callable[[], object]:
    """Solve, loss and backward."""

    def run() -> None:
        field.zero_grad()
        solve().square().mean().backward()

    return run


def unrecorded(solve: Solve) -> Callable[[], object]:
    """The solve alone."""

    def run() -> object:
        with torch.no_grad():
            return solve()

    return run


def exact(case: Workload, field: nn.Module, y0: Tensor) -> np.ndarray:
    """The states in double precision at a tight tolerance; a rough field allows for less."""
    twin, rough = deepcopy(field).double(), case.name.startswith("conv")
    solver, tol = ("tsit5", 1e-8) if rough else ("dop853", 1e-12)
    with torch.no_grad():
        found = ic.solve(
            twin, y0.detach().double(), case.times[0], case.times[-1], solver=solver, rtol=tol,
            atol=tol, save=ic.SaveAt(ts=case.times[1:]),
        ).ys  # fmt: skip
    return found.numpy()  # type: ignore[no-any-return]


def bare(case: Workload, field: nn.Module, y0: Tensor, evaluations: int) -> Callable[[], object]:
    """The field alone, compiled by torch, as often as a solve evaluates it."""
    compiled = torch.compile(field, dynamic=False)
    t = torch.zeros(())

    def run() -> None:
        with torch.no_grad():
            for _ in range(evaluations):
                compiled(t, y0)

    return run


def measure(case: Workload, what: str, scale: float) -> dict[str, Measured]:
    """All candidates in one interleaved run."""
    field, y0 = case.build()
    y0 = y0.requires_grad_(what == "training")
    counting = Counting(field)
    plain = by_torch(case, field, y0)
    counted = by_torch(case, counting, y0)
    right = exact(case, field, y0)
    runs: dict[str, Callable[[], object]] = {}
    known: dict[str, tuple[int, float]] = {}
    for name, solve in plain.items():
        if what == "forward" and name == ADJOINT:
            continue
        run = trained(field, solve) if what == "training" else unrecorded(solve)
        found = solve().detach().double().numpy()
        counting.calls = 0
        if name != OURS:  # compiled, the field is not called
            (
                trained(counting, counted[name])
                if what == "training"
                else unrecorded(counted[name])
            )()
        runs[name] = run
        known[name] = counting.calls, off(found, right)
    for name, solve in by_jax(case, field, y0)[what].items():
        runs[name] = solve
        states = solve() if what == "forward" else solve()[0][1]
        known[name] = 0, off(np.asarray(states, np.float64), right)
    sol = ic.solve(
        field, y0.detach(), case.times[0], case.times[-1], solver="dopri5", rtol=case.rtol,
        atol=case.atol, norm="rms", compile=True,
    )  # fmt: skip
    known[OURS] = sol.stats.nfe_forward, known[OURS][1]
    if what == "forward":
        runs[BARE] = bare(case, field, y0.detach(), sol.stats.nfe_forward)
        known[BARE] = sol.stats.nfe_forward, math.nan
    timings = interleaved(runs, max(3, round(case.rounds * scale)), warm_up=2)
    return {name: Measured(timings[name], *known[name]) for name in runs}


def off(found: np.ndarray, right: np.ndarray) -> float:
    """The largest error."""
    return float(np.abs(found.reshape(right.shape) - right).max())


def table(found: dict[str, Measured]) -> list[str]:
    ours = found[OURS].timing
    lines = [
        "| | ms, median | evaluations | error | isocline, compiled, is faster by (quartiles) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, one in found.items():
        low, high = ours.spread(one.timing)
        ratio = "" if name == OURS else f"{ours.ratio(one.timing):.2f} ({low:.2f}-{high:.2f})"
        count = str(one.evaluations) if one.evaluations else ""
        error = "" if math.isnan(one.error) else f"{one.error:.1e}"
        lines.append(f"| {name} | {one.timing.median:.3f} | {count} | {error} | {ratio} |")
    return lines


def versions() -> dict[str, str]:
    import diffrax

    return {
        "isocline": ic.__version__,
        "torchdiffeq": torchdiffeq.__version__,
        "diffrax": diffrax.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def page(keys: list[str], scale: float) -> str:
    lines = [
        "# Compiled speed beside torchdiffeq, torchode and diffrax",
        "",
        INTRODUCTION.format(**versions()),
        "",
    ]
    training: dict[str, list[float]] = {}
    for key in keys:
        case = CASES[key]
        lines += [
            f"## {case.name}",
            "",
            f"t to {case.times[-1]:g}, rtol {case.rtol:g}, atol {case.atol:g}.",
            "",
        ]
        for what in case.what:
            found = measure(case, what, scale)
            lines += [f"{what.capitalize()}:", "", *table(found), ""]
            print("\n".join([key, what, *table(found)]), file=sys.stderr, flush=True)
            if what == "training" and key not in ("lotka",):
                for name, one in found.items():
                    training.setdefault(name, []).append(found[OURS].timing.ratio(one.timing))
    lines += ["## All training steps but Lotka-Volterra's", "", "Geometric mean of the ratios:", ""]
    lines += ["| | isocline, compiled, is faster by |", "| --- | --- |"]
    for name, ratios in training.items():
        if name != OURS:
            lines.append(f"| {name} | {statistics.geometric_mean(ratios):.2f} |")
    return "\n".join([*lines, "", LIMITS])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of rounds")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = page(options.cases, options.scale)
    print(text)
    if options.out is not None:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
