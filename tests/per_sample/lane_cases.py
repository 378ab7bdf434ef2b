"""What the suites of per-sample stepping share: a stiff-to-easy batch, and ways to ask about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import isocline as ic

from ..known import ADAPTIVE, one_of_each_kind

EXPLICIT = one_of_each_kind(
    [method for method in ADAPTIVE if issubclass(method, ic.solvers.ExplicitRungeKutta)]
)

ADJOINTS: dict[str, Any] = {
    "direct": ic.Direct(),
    "checkpointed": ic.Checkpointed(),
    "some_graphs": ic.Checkpointed(graph_budget=30_000),
    "no_graphs": ic.Checkpointed(graph_budget=0),
    "slots1": ic.Checkpointed(slots=1),
    "slots3": ic.Checkpointed(slots=3),
    "auto": ic.Checkpointed(slots="auto", state_budget=500, graph_budget=0),
}

CONTINUOUS: dict[str, Any] = {
    "backsolve": ic.Backsolve(),
    "backsolve_checkpoints": ic.Backsolve(checkpoints=2),
}
"""Those whose gradient is that of the exact solution, to the tolerance of a solve of their own."""

BATCH = 6


def column(t: Tensor, y: Tensor) -> Tensor:
    """Times of shape () or (lanes,) as they multiply states of shape (lanes, width)."""
    return t.unsqueeze(-1) if t.ndim else t


def oscillator(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    """Van der Pol's, driven, with a stiffness of each sample's own; no operation mixes samples."""
    x, v = y[..., 0], y[..., 1]
    return torch.stack([v, mu * (1 - x * x) * v - x + 0.3 * t * t], -1)


class Net(nn.Module):
    """A small network, so that the field has parameters to which all samples contribute."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 5).double(), nn.Linear(5, 2).double()

    def forward(self, t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
        seen = torch.cat([y, column(t, y).expand(*y.shape[:-1], 1)], -1)
        slope: Tensor = self.outer(torch.tanh(self.inner(seen)))
        return slope * mu.unsqueeze(-1)


def inputs(count: int = BATCH) -> dict[str, Tensor]:
    """Starts, times and stiffness of each sample, float64; all require grad."""
    generator = torch.Generator().manual_seed(3)
    ramp = torch.linspace(0.0, 1.0, count, dtype=torch.float64)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    given = {
        "y0": noise(count, 2),
        "mu": 0.5 + 6.0 * ramp.flip(0),
        "t0": 0.1 * noise(count),
        "t1": 0.8 + 1.5 * ramp,
    }
    return {name: tensor.requires_grad_() for name, tensor in given.items()}


def chosen(given: dict[str, Tensor], samples: Sequence[int]) -> dict[str, Tensor]:
    """The inputs of some samples, in this order, as leaves of their own."""
    rows = list(samples)
    return {name: tensor.detach()[rows].requires_grad_() for name, tensor in given.items()}


def solved(field: Any, given: dict[str, Tensor], **options: Any) -> ic.Solution:
    """The solve of some samples at their own pace."""
    settings: dict[str, Any] = {"rtol": 1e-7, "atol": 1e-8, "stepping": "per_sample", **options}
    mu = ic.PerSample(given["mu"])
    return ic.solve(field, given["y0"], given["t0"], given["t1"], args=(mu,), **settings)


def gradients(
    field: Any, given: dict[str, Tensor], weights: Tensor, **options: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """End states, shape (samples, 2), and gradients of a loss that sums over samples.

    Args:
        field: a module, or a function without parameters.
        given: as `inputs` gives them.
        weights: of the loss, shape (samples, 2).
        options: of `solve`.
    """
    end = solved(field, given, **options).ys[-1]
    loss = (weights * end.sin()).sum()
    parameters = dict(field.named_parameters()) if isinstance(field, nn.Module) else {}
    wanted = {**given, **parameters}
    found = torch.autograd.grad(loss, list(wanted.values()))
    return end.detach(), dict(zip(wanted, found, strict=True))


def off(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest number expected."""
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max())
