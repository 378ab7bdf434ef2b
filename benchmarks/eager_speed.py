"""Eager speed beside torchdiffeq: the 2-64-64-2 MLP at batch 1 and 128, dopri5.

Same tolerances, same averaged norm, same method on both sides, in one interleaved run on one
thread; medians, ratios round by round, evaluations, and errors against a tight reference.

    python benchmarks/eager_speed.py [--rounds 40] [--out docs/results/eager-speed.md]
"""

from __future__ import annotations

import platform
from collections.abc import Callable

import torch
from timing import Timing, interleaved, publish
from torch import Tensor, nn

import isocline as ic
import torchdiffeq

RTOL, ATOL = 1e-5, 1e-6
END = 10.0


class Field(nn.Module):
    """The MLP, autonomous; counts its evaluations on the class, so that a call costs no more."""

    evaluations = 0

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt, shape (batch, 2)."""
        Field.evaluations += 1
        return self.net(y)  # type: ignore[no-any-return]


def build(batch: int) -> tuple[Field, Tensor]:
    """Field and initial state, shape (batch, 2), seeded."""
    torch.manual_seed(0)
    field = Field()
    with torch.no_grad():
        for parameter in field.parameters():  # livelier than the default: about a dozen steps
            parameter.mul_(2.0 if parameter.ndim > 1 else 1.0)
    return field, torch.randn(batch, 2)


def solves(field: Field, y0: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The end state by each library, as a training step would compute it."""
    t = torch.tensor([0.0, END])

    def ours(adjoint: ic.Adjoint) -> Callable[[], Tensor]:
        def run() -> Tensor:
            solution = ic.solve(
                field, y0, 0.0, END, solver="dopri5", rtol=RTOL, atol=ATOL, norm="rms",
                adjoint=adjoint,
            )  # fmt: skip
            return solution.ys[-1]  # type: ignore[no-any-return]

        return run

    def theirs(odeint: Callable[..., Tensor]) -> Callable[[], Tensor]:
        return lambda: odeint(field, y0, t, rtol=RTOL, atol=ATOL, method="dopri5")[-1]

    return {
        "isocline Checkpointed (default)": ours(ic.Checkpointed()),
        "isocline Checkpointed, nothing kept": ours(ic.Checkpointed(graph_budget=0)),
        "isocline Direct": ours(ic.Direct()),
        "isocline Backsolve": ours(ic.Backsolve()),
        "torchdiffeq odeint": theirs(torchdiffeq.odeint),
        "torchdiffeq odeint_adjoint": theirs(torchdiffeq.odeint_adjoint),
    }


def forward(run: Callable[[], Tensor]) -> Callable[[], object]:
    """The solve alone, no gradient recorded."""

    def timed() -> object:
        with torch.no_grad():
            return run()

    return timed


def training(field: Field, run: Callable[[], Tensor]) -> Callable[[], object]:
    """Solve, loss and backward."""

    def timed() -> None:
        field.zero_grad()
        run().square().mean().backward()

    return timed


def count(run: Callable[[], object]) -> int:
    """Evaluations of the field in one run, forward and backward."""
    Field.evaluations = 0
    run()
    return Field.evaluations


def reference(field: Field, y0: Tensor) -> Tensor:
    """The end state in double precision at tolerance 1e-12."""
    with torch.no_grad():
        exact = ic.solve(
            field.double(), y0.double(), 0.0, END, solver="dop853", rtol=1e-12, atol=1e-12
        ).ys[-1]
    field.float()
    return exact  # type: ignore[no-any-return]


def report(batch: int, rounds: int) -> str:
    """One batch size as Markdown."""
    field, y0 = build(batch)
    exact = reference(field, y0)
    runs = solves(field, y0)
    ours, theirs = "isocline Checkpointed (default)", "torchdiffeq odeint"
    inference = {name: forward(runs[name]) for name in (ours, theirs)}
    evaluations = {name: count(run) for name, run in inference.items()}
    zero = torch.zeros(())

    def bare() -> None:
        with torch.no_grad():
            for _ in range(evaluations[ours]):
                field(zero, y0)

    forwards = interleaved({**inference, "bare field calls": bare}, rounds)
    trainings = {name: training(field, run) for name, run in runs.items()}
    backwards = interleaved(trainings, rounds)
    with torch.no_grad():
        errors = {name: float((runs[name]() - exact).abs().max()) for name in (ours, theirs)}
    solve, call = forwards[ours], forwards["bare field calls"]
    overhead = call.ratio(solve)
    lines = [
        f"## Batch {batch}",
        "",
        (
            f"Forward ({evaluations[ours]} evaluations against {evaluations[theirs]}; largest "
            f"error {errors[ours]:.1e} against {errors[theirs]:.1e}):"
        ),
        "",
        *table(forwards, theirs, {name: evaluations.get(name, 0) for name in forwards}),
        "",
        f"The solve costs {overhead:.2f} times the bare calls of the field that it makes.",
        "",
        "Forward and backward:",
        "",
        *table(backwards, theirs, {name: count(run) for name, run in trainings.items()}),
        "",
        (
            f"Against `odeint_adjoint` the default is "
            f"{backwards[ours].ratio(backwards['torchdiffeq odeint_adjoint']):.1f} times faster."
        ),
        "",
    ]
    return "\n".join(lines)


def table(timings: dict[str, Timing], against: str, evaluations: dict[str, int]) -> list[str]:
    """Rows of medians and of ratios to one of the candidates."""
    rows = [
        f"| | ms, median | evaluations | times faster than `{against.split()[-1]}` (quartiles) |",
        "| --- | --- | --- | --- |",
    ]
    for name, timing in timings.items():
        low, high = timing.spread(timings[against])
        ratio = (
            ""
            if name == against
            else f"{timing.ratio(timings[against]):.2f} ({low:.2f}-{high:.2f})"
        )
        rows.append(f"| {name} | {timing.median:.2f} | {evaluations[name] or ''} | {ratio} |")
    return rows


def page(rounds: int) -> str:
    """All of it as Markdown."""
    return "\n".join(
        [
            "# Eager speed beside torchdiffeq",
            "",
            (
                f"2-64-64-2 tanh MLP, float32, dopri5, t from 0 to {END:g}, rtol {RTOL:g}, "
                f"atol {ATOL:g}, the averaged norm on both sides, one thread, "
                f"{rounds} interleaved rounds. isocline {ic.__version__}, torchdiffeq "
                f"{torchdiffeq.__version__}, torch {torch.__version__}, Python "
                f"{platform.python_version()}. Made by `make bench`; read the ratios, for absolute "
                "times vary with the machine."
            ),
            "",
            *(report(batch, rounds) for batch in (1, 128)),
        ]
    )


if __name__ == "__main__":
    publish(__doc__, page, rounds=40)
