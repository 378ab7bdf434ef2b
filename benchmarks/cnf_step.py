"""A training step of a continuous normalizing flow beside torchdiffeq, with the same trace.

Three flows: the paper's planar field with its closed form, an MLP with the exact trace, and a
64-dimensional one with Hutchinson's estimate. Model, trace, data, method (dopri5), tolerance and
averaged norm are the same on both sides, and so are the gradients, which is checked.

    python benchmarks/cnf_step.py [--rounds 15] [--out docs/results/cnf-speed.md]
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass

import torch
from timing import publish
from torch import Tensor, nn
from training_step import TrainingStep, compare

import isocline as ic
import torchdiffeq
from isocline.nn import (
    CNF,
    ConcatSquashField,
    ExactDivergence,
    Hutchinson,
    MLPField,
    PlanarField,
)
from isocline.nn.flows.dynamics import Dynamics

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Case:
    """A flow, its data, and its trace.

    Attributes:
        name: for the table.
        field: makes the field.
        features: of a sample.
        batch: samples a step.
        divergence: None for the field's own closed form.
        t1: end of the flow.
    """

    name: str
    field: Callable[[], nn.Module]
    features: int
    batch: int
    divergence: object
    t1: float


CASES = (
    Case("planar, 64 units, closed form", lambda: PlanarField(2, 64, 32), 2, 512, None, 10.0),
    Case("MLP 2-64-64-2, exact trace", lambda: MLPField(2, 64, 2), 2, 512, ExactDivergence(), 1.0),
    Case(
        "concat-squash 64-128-128-64, Hutchinson",
        lambda: ConcatSquashField(64, 128, 2),
        64, 256, Hutchinson(), 1.0,
    ),
)  # fmt: skip


class Loss(TrainingStep):
    """The negative log-likelihood of one batch by either library, with the noise held fixed."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        field = case.field()
        with torch.no_grad():  # livelier than at the start of training, as a trained flow is
            for parameter in field.parameters():
                parameter.mul_(1.5 if parameter.ndim > 1 else 1.0)
        self.case = case
        self.flow = CNF(
            field, case.features, divergence=case.divergence, t1=case.t1, solver="dopri5",
            rtol=TOLERANCE, atol=TOLERANCE, norm="rms",
        )  # fmt: skip
        self.x = torch.randn(case.batch, case.features)
        self.noise = self.flow.divergence.noise(self.x)
        super().__init__(self.flow)
        self.dynamics = Dynamics(field, self.flow.divergence)

    def _field(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.evaluations += 1
        return self.dynamics(t, state, self.noise)

    def ours(self, adjoint: ic.Adjoint) -> Tensor:
        """By isocline."""
        states = ic.solve(
            self._field, self.dynamics.start(self.x), self.case.t1, 0.0, solver="dopri5",
            rtol=TOLERANCE, atol=TOLERANCE, norm="rms", adjoint=adjoint,
        ).ys  # fmt: skip
        return self._likelihood(states)

    def compiled(self) -> Tensor:
        """By isocline, compiled."""
        states = ic.solve(
            self.dynamics, self.dynamics.start(self.x), self.case.t1, 0.0, solver="dopri5",
            rtol=TOLERANCE, atol=TOLERANCE, norm="rms", args=(self.noise,), compile=True,
        ).ys  # fmt: skip
        return self._likelihood(states)

    def theirs(self, *, adjoint: bool) -> Tensor:
        """By torchdiffeq."""
        options = {"rtol": TOLERANCE, "atol": TOLERANCE, "method": "dopri5"}
        t = torch.tensor([self.case.t1, 0.0])
        start = self.dynamics.start(self.x)
        if adjoint:
            parameters = tuple(self.flow.parameters())
            solve = torchdiffeq.odeint_adjoint
            states = solve(self._field, start, t, adjoint_params=parameters, **options)
        else:
            states = torchdiffeq.odeint(self._field, start, t, **options)
        return self._likelihood(states)

    def _likelihood(self, states: tuple[Tensor, ...]) -> Tensor:
        z, log_det = (state[-1] for state in states)
        return -(self.flow.base_distribution().log_prob(z) + log_det).mean()


def report(case: Case, rounds: int) -> str:
    """One flow as Markdown."""
    loss = Loss(case)
    losses: dict[str, Callable[[], Tensor]] = {
        "isocline, compiled": loss.compiled,
        "isocline, default": lambda: loss.ours(ic.Checkpointed()),
        "isocline, 1 GiB of graphs": lambda: loss.ours(ic.Checkpointed(graph_budget=2**30)),
        "isocline Direct": lambda: loss.ours(ic.Direct()),
        "isocline Backsolve": lambda: loss.ours(ic.Backsolve()),
        "torchdiffeq odeint": lambda: loss.theirs(adjoint=False),
        "torchdiffeq odeint_adjoint": lambda: loss.theirs(adjoint=True),
    }
    title = f"## {case.name[0].upper()}{case.name[1:]}, batch {case.batch}"
    table = compare(loss, losses, "isocline Direct", rounds)
    return "\n".join([title, "", *table, ""])


def page(rounds: int) -> str:
    """All of it as Markdown."""
    return "\n".join(
        [
            "# A training step of a flow beside torchdiffeq",
            "",
            (
                "Negative log-likelihood of one batch and its gradient, float32, dopri5, tolerance "
                f"{TOLERANCE:g}, averaged norm on both sides, one thread, {rounds} "
                f"interleaved rounds. isocline {ic.__version__}, torchdiffeq "
                f"{torchdiffeq.__version__}, torch {torch.__version__}, Python "
                f"{platform.python_version()}. Evaluations are forward "
                "and backward together, not counted where compiled; the last column is the "
                "distance of the gradient from that "
                "of `Direct`. Made by `benchmarks/cnf_step.py`; read the ratios."
            ),
            "",
            *(report(case, rounds) for case in CASES),
        ]
    )


if __name__ == "__main__":
    publish(__doc__, page, rounds=15)
