"""A training step by several ways of solving, timed side by side, with their gradients compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from timing import interleaved
from torch import Tensor, nn

__all__ = ["TrainingStep", "compare"]


class TrainingStep:
    """A loss of one batch, and what can be asked of it.

    Args:
        module: whose parameters are trained.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.evaluations = 0

    def gradient(self, loss: Callable[[], Tensor]) -> Tensor:
        """Of the loss in all parameters, as one vector."""
        found = torch.autograd.grad(loss(), list(self.module.parameters()))
        return torch.cat([part.flatten() for part in found])

    def step(self, loss: Callable[[], Tensor]) -> Callable[[], object]:
        """Loss and backward."""

        def run() -> None:
            self.module.zero_grad()
            loss().backward()

        return run

    def count(self, run: Callable[[], object]) -> int:
        """Evaluations of one step, forward and backward."""
        self.evaluations = 0
        run()
        return self.evaluations


def compare(
    step: TrainingStep, losses: Mapping[str, Callable[[], Tensor]], exact: str, rounds: int
) -> list[str]:
    """A table in Markdown: time, evaluations, ratios to torchdiffeq, and errors of the gradient.

    Args:
        step: the batch.
        losses: the ways to compute it; two of them are torchdiffeq's `odeint` and `odeint_adjoint`.
        exact: whose gradient the others are held against.
        rounds: of timing, interleaved.
    """
    right = step.gradient(losses[exact])
    runs = {name: step.step(one) for name, one in losses.items()}
    timings = interleaved(runs, rounds, warm_up=1)
    lines = [
        (
            "| | ms, median | evaluations | faster than `odeint` | than `odeint_adjoint` "
            "| gradient off by |"
        ),
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in losses.items():
        timing = timings[name]
        off = float((step.gradient(one) - right).norm() / right.norm())
        ratios = [
            timing.ratio(timings[f"torchdiffeq {other}"]) for other in ("odeint", "odeint_adjoint")
        ]
        lines.append(
            f"| {name} | {timing.median:.1f} | {step.count(runs[name]) or ''} | {ratios[0]:.2f} | "
            f"{ratios[1]:.2f} | {off:.0e} |"
        )
    return lines
