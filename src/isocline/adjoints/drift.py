"""How far the state, found once more on the way back, strays from that of the forward pass."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from ..errors import GradientWarning
from ..integrate import LaneTolerance
from ..problem import Plan
from ..samples import SamplePlan

__all__ = ["Drift", "LaneDrift", "warn_of_miss"]

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
        _warn(self.largest, f"at t = {self.t:.6g}", self.adaptive)


class LaneDrift:
    """The largest drift of each sample of one backward pass of per-sample stepping.

    Args:
        plan: of the reverse solve, for the states of these samples alone.
        like: their states, shape (n, width).
    """

    def __init__(self, plan: SamplePlan, like: Tensor) -> None:
        self.norm, self.adaptive = plan.norm, plan.controller.adaptive
        self.tolerance = LaneTolerance(plan, like)
        count = len(like)
        self.largest = torch.zeros(count, dtype=torch.float64, device=like.device)
        self.times = torch.full_like(self.largest, math.nan)

    def between(self, samples: Tensor, y: Tensor, known: Tensor) -> Tensor:
        """Differences of two states in tolerances, shape (k,); infinite for what is not a number.

        Args:
            samples: whose they are, shape (k,).
            y, known: shape (k, width).
        """
        size = known.abs()
        if self.adaptive:
            scale = self.tolerance.of(samples).scale(known)
        else:
            least = torch.finfo(size.dtype).tiny ** 0.5
            scale = FRACTION * (size + size.amax(1, keepdim=True)).clamp(min=least)
        found = self.norm((y - known) / scale).double()
        return found.nan_to_num(nan=math.inf, posinf=math.inf)

    def note(self, samples: Tensor, times: Tensor, tolerances: Tensor) -> None:
        """Drifts were measured, at most one of a sample."""
        before = self.largest.index_select(0, samples)
        when = torch.where(tolerances > before, times, self.times.index_select(0, samples))
        self.times = self.times.index_copy(0, samples, when)
        self.largest = self.largest.index_copy(0, samples, torch.maximum(tolerances, before))

    @property
    def farthest(self) -> float:
        """The largest of all samples."""
        return float(self.largest.max())

    def warn(self, samples: Tensor, signs: Tensor) -> None:
        """Warn if the largest was far out.

        Args:
            samples: the numbers of all samples in their batch.
            signs: of the user's time against the clock of the noted times.
        """
        place = int(self.largest.argmax())
        t = float(self.times[place] * signs[place]) + 0.0  # no -0
        where = f"in sample {int(samples[place])} at t = {t:.6g}"
        _warn(float(self.largest[place]), where, self.adaptive)


def _warn(largest: float, where: str, adaptive: bool) -> None:
    """Warn of a drift that is far out."""
    if largest <= FAR:
        return
    if adaptive:
        far, finer = f"{largest:.3g} times its tolerance", "tighten `rtol` and `atol`"
    else:
        far, finer = f"{100 * FRACTION * largest:.3g} % of its size", "take shorter steps"
    warnings.warn(
        f"the reverse solve of Backsolve came {where} to a state that is {far} "
        "away from that of the forward solve: the gradient is that of another trajectory, and "
        "may be far off. Where a flow contracts, errors grow in reverse. Use "
        "`adjoint=Checkpointed()`, which takes no reverse solve; or put the state right along "
        f"the way with `Backsolve(checkpoints=...)`; or {finer}.",
        GradientWarning,
        stacklevel=3,
    )


def warn_of_miss(
    steps: str, t: float, tolerances: float, error: Tensor, true: Tensor, *, event: bool = False
) -> None:
    """Warn if steps back missed a known state by more than the tolerance of the solve.

    Args:
        steps: how many there were, and whose they are.
        t: when the state is known: at the start, or behind an event.
        tolerances: the miss, in tolerances.
        error, true: the same as a state, and the known state.
        event: whether an event is what the solve went on from there.
    """
    if tolerances <= 1:
        return
    size = true.abs()
    apart = float(error.abs().max() / size.max()) if size.any() else float(error.abs().max())
    where = f"behind the event at t = {t:.9g}" if event else f"at t0 = {t:.9g}"
    warnings.warn(
        f"StepBack: {steps} steps back miss the state {where} by "
        f"{tolerances:.2g} times the tolerance of the solve, or {apart:.1e} of its size; the "
        "gradient is off by about as much. Rounding errors grow on the way back where the "
        "flow contracts, and a symplectic method cannot go back where the field does not "
        "separate. Use `adjoint=Checkpointed(slots=k)`, a shorter span, or float64.",
        GradientWarning,
        stacklevel=3,
    )
