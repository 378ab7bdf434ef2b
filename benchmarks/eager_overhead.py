"""What a graph-free solve costs beyond its calls of the field, and how much of that is the floor.

The floor is a loop of the same steps with every operation that an eager Runge-Kutta step cannot do
without, written out by hand: no library, no checks, no choice of step, nothing to configure.

    python benchmarks/eager_overhead.py [--rounds 60] [--out docs/results/overhead.md]
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from eager_speed import ATOL, END, RTOL, build, count, forward, solves
from timing import interleaved, publish
from torch import Tensor, nn

import isocline as ic

BATCH = 128


def by_hand(field: nn.Module, y0: Tensor, ends: list[float]) -> Callable[[], Tensor]:
    """Dopri5 over the given step ends, as lean as eager PyTorch allows."""
    tableau = ic.Dopri5().tableau
    rows = [[float(x) for x in row] for row in (*tableau.a, tableau.error[0])]
    nodes = [float(c) for c in tableau.c]
    flat = torch.tensor([x for row in rows for x in row])
    lengths, atol = [len(row) for row in rows], torch.tensor(ATOL)

    def run() -> Tensor:
        y, size = y0.flatten(), y0.flatten().abs()
        slopes, scaled = y.new_zeros(7, y.numel()), torch.empty_like(flat)
        slots, columns = slopes.unbind(), [slopes[:i].t() for i in range(8)]
        weights = scaled.split(lengths)
        t = torch.zeros(())
        slots[0].copy_(field(t, y0).flatten())
        for start, end in itertools.pairwise(ends):
            torch.mul(flat, end - start, out=scaled)
            for i in range(1, 7):
                stage = torch.addmv(y, columns[i], weights[i])
                t = torch.scalar_tensor(start + nodes[i] * (end - start))
                slots[i].copy_(field(t, stage.as_strided(y0.shape, (2, 1))).flatten())
            error = torch.mv(columns[7], weights[7])
            grown = stage.abs()
            scale = torch.add(atol, torch.maximum(size, grown), alpha=RTOL)
            torch.linalg.vector_norm(error / scale).item()
            slots[0].copy_(slots[6])
            y, size = stage, grown
        return y.view(y0.shape)

    return run


def report(rounds: int) -> str:
    """The page."""
    field, y0 = build(BATCH)
    solve = solves(field, y0)["isocline Checkpointed (default)"]
    evaluations = count(forward(solve))
    taken = ic.solve(
        field, y0, 0.0, END, solver="dopri5", rtol=RTOL, atol=ATOL, norm="rms",
        save=ic.SaveAt(t0=True, steps=True),
    )  # fmt: skip
    if taken.stats.steps_rejected:
        raise SystemExit("a step was rejected: the loop by hand would do less work")
    lean = forward(by_hand(field, y0, taken.ts.tolist()))
    if not torch.equal(lean(), forward(solve)()):  # type: ignore[arg-type]
        raise SystemExit("the loop by hand and the solve disagree: the comparison means nothing")
    zero = torch.zeros(())

    def bare() -> None:
        with torch.no_grad():
            for _ in range(evaluations):
                field(zero, y0)

    def short() -> None:
        with torch.no_grad():
            ic.solve(field, y0, 0.0, 1e-9, solver="dopri5", dt0=1e-9, rtol=RTOL, atol=ATOL)

    def short_bare() -> None:
        with torch.no_grad():
            for _ in range(7):
                field(zero, y0)

    runs = {"bare": bare, "lean": lean, "solve": forward(solve)}
    runs |= {"one step": short, "its calls": short_bare}
    timings = interleaved(runs, rounds)
    floor, whole = (timings["bare"].ratio(timings[name]) for name in ("lean", "solve"))
    fixed = timings["one step"].median - timings["its calls"].median
    steps, left = taken.stats.steps_accepted, 1.25 - floor
    return f"""# Where the time of a graph-free solve goes

The problem of [the speed page](speed.md) at batch {BATCH}: {evaluations} evaluations of the field
in {steps} steps, one thread, {rounds} interleaved rounds. Made by `make bench`.

| | ms, median | over the bare calls |
| --- | --- | --- |
| bare calls of the field, {evaluations} times | {timings["bare"].median:.2f} | 1 |
| the same steps written out by hand | {timings["lean"].median:.2f} | {floor:.2f} |
| `isocline.solve` | {timings["solve"].median:.2f} | {whole:.2f} |

The loop by hand has the operations that an eager step cannot do without and nothing else: per
stage a sum, a view, a time and a copy into the buffer of stages, per step an error norm that is
read. It gives the solve's end state to the last bit. A solve of a single step costs
{fixed:.2f} ms beyond its seven calls: checks of the input, buffers, the solution.

The aim was 1.25 over the bare calls. Of that the hand-written loop leaves {left:.2f} for everything
that makes it a solver: choosing and judging steps, statistics, checks of what the field returns,
saving. In a loop of its own each of these costs a microsecond or two; between two calls of a field,
whose kernels have just passed through the caches, about half as much again. What remains can be
taken away by compiling the step, not by rearranging Python.
"""


if __name__ == "__main__":
    publish(__doc__, report, rounds=60)
