"""How far the state, solved for once more in reverse, strays from the one of the forward pass."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from ..errors import GradientWarning
from ..problem import Plan

__all__ = ["Drift"]

FAR = 3000.0
"""Warn of a drift of more tolerances than this.

Measured at tolerances from 1e-3 to 1e-9: oscillators, Kepler's problem, Lotka-Volterra and a
network drift by up to 800 tolerances over some twenty units of time, and the gradient errs as much
as that of the discrete solve. dy/dt = -100 y^3 drifts by 6e3 to 2e4, and its gradient errs by sixty
times as much; van der Pol's equation by 5e4 to 1e9, and nothing in its gradient is right.
"""

FRACTION = 1e-4
"""What stands for the tolerance where steps are of constant length: this fraction of the state."""


class Drift:
    """The largest drift of one backward pass.

    Args:
        plan: of the reverse solve: its tolerances, and the norm of the state.
        like: a state.
    """

    def __init__(self, plan: Plan, like: Tensor) -> None:
        self.norm, self.adaptive = plan.norm, plan.controller.adaptive
        atol = torch.as_tensor(plan.atol, dtype=like.real.dtype, device=like.device)
        self.atol = atol.clamp(min=torch.finfo(atol.dtype).tiny ** 0.5)
        self.rtol = plan.rtol
        self.largest, self.t = 0.0, math.nan

    def between(self, y: Tensor, known: Tensor) -> float:
        """The difference of two states in tolerances; infinite where one is not a number."""
        size = known.abs()
        if self.adaptive:
            scale = self.atol + self.rtol * size
        else:
            scale = FRACTION * (size + size.amax()).clamp(min=torch.finfo(size.dtype).tiny ** 0.5)
        found = self.norm((y - known) / scale).item()
        return math.inf if math.isnan(found) else found

    def note(self, t: float, tolerances: float) -> None:
        """A drift was measured at t."""
        if tolerances > self.largest:
            self.largest, self.t = tolerances, t

    def warn(self) -> None:
        """Warn if the largest was far out."""
        if self.largest <= FAR:
            return
        if self.adaptive:
            far, finer = f"{self.largest:.3g} times its tolerance", "tighten `rtol` and `atol`"
        else:
            far, finer = f"{100 * FRACTION * self.largest:.3g} % of its size", "take shorter steps"
        warnings.warn(
            f"the reverse solve of Backsolve came at t = {self.t:.6g} to a state that is {far} "
            "away from that of the forward solve: the gradient is that of another trajectory, and "
            "may be far off. Where a flow contracts, errors grow in reverse. Use "
            "`adjoint=Checkpointed()`, which takes no reverse solve; or put the state right along "
            f"the way with `Backsolve(checkpoints=...)`; or {finer}.",
            GradientWarning,
            stacklevel=2,
        )
