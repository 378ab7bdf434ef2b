"""A training step of a latent ODE beside torchdiffeq: spirals, 100 output times.

The paper's sizes: an encoder RNN with 25 units, four latent dimensions, an ELU field and a decoder
with 20 hidden units. Encoder, noise, field, decoder and likelihood are the same objects on both
sides, and so are method (dopri5), tolerance and averaged norm; the gradients are compared.

    python benchmarks/latent_ode_step.py [--rounds 15] [--out docs/results/latent-ode-speed.md]
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass

import torch
from timing import interleaved, publish
from torch import Tensor
from training_step import TrainingStep, compare

import isocline as ic
import torchdiffeq
from isocline.data.spirals import spirals
from isocline.nn import IrregularBatch, LatentODE
from isocline.nn.series.elbo import kl_from_prior

BATCH = 100


@dataclass(frozen=True)
class Case:
    """A tolerance, and how many of the 100 times each series has.

    Attributes:
        tolerance: relative and absolute.
        observed: points kept, at random times of the grid's.
    """

    tolerance: float
    observed: int


CASES = (Case(1e-5, 100), Case(1e-5, 30), Case(1.5e-8, 100))


class Loss(TrainingStep):
    """The negative ELBO of one batch by either library, with the noise held fixed."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        self.case = case
        self.model = LatentODE.of_sizes(
            2, cell="rnn", solver="dopri5", rtol=case.tolerance, atol=case.tolerance, norm="rms"
        )
        self._train_a_little()
        self.batch = _batch(case.observed, 1)
        self.noise = torch.randn(BATCH, 1, self.model.latent)
        super().__init__(self.model)
        self.model.field.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.evaluations += 1

    def _train_a_little(self) -> None:
        """A field at its initial values is almost constant, and needs next to no steps."""
        optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        for iteration in range(200):
            optimizer.zero_grad()
            loss = -self.model.elbo(_batch(30, 100 + iteration)).value().mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
            optimizer.step()

    def ours(self, adjoint: ic.Adjoint, *, compiled: bool = False) -> Tensor:
        """By isocline."""
        self.model.adjoint, self.model.compiled = adjoint, compiled
        return -self.model.elbo(self.batch, noise=self.noise).value().mean()

    def theirs(self, *, adjoint: bool) -> Tensor:
        """By torchdiffeq, on the union of times, each series taking its own."""
        model, batch = self.model, self.batch
        posterior = model.encode(batch)
        z0 = posterior.loc + posterior.scale * self.noise.squeeze(1)
        grid, index = torch.unique(batch.times, return_inverse=True)
        options = {"rtol": self.case.tolerance, "atol": self.case.tolerance, "method": "dopri5"}
        solve = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint
        starts_at_t0 = bool(grid[0] == model.t0)
        t = grid if starts_at_t0 else torch.cat([grid.new_tensor([model.t0]), grid])
        path = solve(model.field, z0, t, **options)
        path = path if starts_at_t0 else path[1:]
        z = path[index, torch.arange(len(z0)).unsqueeze(1)]
        log_prob = model.likelihood.log_prob(model.decoder(z), batch.values, batch.mask)
        return -(log_prob.sum(1) - kl_from_prior(posterior)).mean()


def _batch(observed: int, seed: int) -> IrregularBatch:
    return spirals(BATCH, seed=seed).series(observed).batch()


def report(case: Case, rounds: int) -> str:
    """One case as Markdown."""
    loss = Loss(case)
    losses: dict[str, Callable[[], Tensor]] = {
        "isocline, compiled": lambda: loss.ours(ic.Checkpointed(), compiled=True),
        "isocline, default": lambda: loss.ours(ic.Checkpointed()),
        "isocline Direct": lambda: loss.ours(ic.Direct()),
        "isocline Backsolve": lambda: loss.ours(ic.Backsolve()),
        "torchdiffeq odeint": lambda: loss.theirs(adjoint=False),
        "torchdiffeq odeint_adjoint": lambda: loss.theirs(adjoint=True),
    }
    # The encoder, the decoder and the likelihood alone: what no solver can save.
    around = interleaved({"around": loss.step(lambda: _without_solve(loss))}, rounds, warm_up=1)
    table = compare(loss, losses, "isocline Direct", rounds)
    title = f"## {case.observed} of 100 points a series, tolerance {case.tolerance:g}"
    rest = f"Encoder, decoder and likelihood alone take {around['around'].median:.1f} ms of it."
    return "\n".join([title, "", rest, "", *table, ""])


def _without_solve(loss: Loss) -> Tensor:
    """The same loss with the latent state standing still."""
    model, batch = loss.model, loss.batch
    posterior = model.encode(batch)
    z0 = posterior.loc + posterior.scale * loss.noise.squeeze(1)
    output = model.decoder(z0.unsqueeze(1).expand(-1, batch.rows, -1))
    log_prob = model.likelihood.log_prob(output, batch.values, batch.mask)
    return -(log_prob.sum(1) - kl_from_prior(posterior)).mean()


def page(rounds: int) -> str:
    """All of it as Markdown."""
    return "\n".join(
        [
            "# A training step of a latent ODE beside torchdiffeq",
            "",
            (
                f"Negative ELBO of {BATCH} spirals and its gradient, float32, dopri5, equal "
                "tolerances, averaged norm on both sides, a field that was trained for 200 "
                f"iterations, one thread, {rounds} interleaved rounds. isocline {ic.__version__}, "
                f"torchdiffeq {torchdiffeq.__version__}, torch {torch.__version__}, Python "
                f"{platform.python_version()}. Evaluations are forward and backward together, and "
                "not counted where they are compiled; the last column is the distance of the "
                "gradient from that of `Direct`. Made by "
                "`benchmarks/latent_ode_step.py`; read the ratios."
            ),
            "",
            (
                "The paper's tolerance, 1.5e-8, is below what float32 resolves: there rounding "
                "dictates the steps of both."
            ),
            "",
            *(report(case, rounds) for case in CASES),
        ]
    )


if __name__ == "__main__":
    publish(__doc__, page, rounds=15)
