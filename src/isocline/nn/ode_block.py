"""A neural ODE as a layer: x -> y(t1), where y solves dy/dt = field(t, y) from y(t0) = x."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..adjoints import Adjoint
from ..controllers import Controller
from ..errors import InputError
from ..solvers import BlackBox, Solver
from ..state import State
from .solving import SolvingModule, Stepping, as_state

__all__ = ["Augment", "ODEBlock"]

Field = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Augment:
    """Zero channels to append to the state before the solve (Dupont et al. 2019).

    Trajectories of an ODE cannot cross; in a state with room to spare they can pass one another.

    Args:
        extra: How many channels to append along axis 1, at least 1.

    Raises:
        InputError: If `extra` is below 1.
    """

    extra: int

    def __post_init__(self) -> None:
        if self.extra < 1:
            raise InputError("extra", str(self.extra), "at least 1")

    def __call__(self, x: Tensor) -> Tensor:
        """Append the channels: ``(batch, channels, ...) -> (batch, channels + extra, ...)``."""
        if x.ndim < 2:
            raise InputError(
                "x", f"the shape {tuple(x.shape)}", "a batch axis and a channel axis to augment"
            )
        return torch.cat([x, x.new_zeros(x.shape[0], self.extra, *x.shape[2:])], dim=1)


class ODEBlock(SolvingModule):
    """A layer whose output is the state of an ODE at `t1`, its input being the state at `t0`.

    `solver`, `rtol`, `atol`, `adjoint`, `dt0` and the rest are plain attributes: they may be
    changed at any time, for instance to trade accuracy for speed after training.

    Under ``torch.autocast`` the field computes in the lower precision, and the state stays in
    float32: its small increments would be lost in 8 bits of mantissa.

    Args:
        field: ``field(t, y) -> dy/dt``, with `t` a 0-d tensor, or of shape ``(batch,)`` under
            per-sample stepping; its parameters become the block's.
        t1: Time of the output.
        t0: Time of the input.
        solver: Name of a solver, or a solver, or a black box.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        adjoint: How to differentiate; ``None`` for the exact discrete adjoint, `Checkpointed`, or
            `Backsolve` for a black box, which takes no other.
        dt0: First step; solvers without an error estimate take all their steps with it.
        controller: Chooses step sizes; ``None`` for the front door's default.
        norm: Of the error, as for `solve`: ``None`` keeps the tolerance for each sample, "rms" on
            the average of the batch, in fewer steps.
        augment: Append zero channels before the solve. The output keeps them, so that
            it has ``extra`` channels more than the input, and the field must be of that size.
        max_steps: Steps after which the solve fails.
        stepping: "joint", or "per_sample": each sample of the batch takes as many steps as it
            needs itself; ``block.stats.samples`` has their numbers.
        compile: Run steps as compiled code (the attribute `compiled`).

    Shape:
        x: ``(batch, ...)``; answer: the same, plus the augmented channels.

    Raises:
        isocline.IsoclineError: From ``forward``, if the solve fails.
    """

    def __init__(
        self,
        field: nn.Module | Field,
        t1: float = 1.0,
        *,
        t0: float = 0.0,
        solver: str | Solver | BlackBox = "tsit5",
        rtol: float = 1e-3,
        atol: float = 1e-3,
        adjoint: Adjoint | None = None,
        dt0: float | None = None,
        controller: Controller | None = None,
        norm: str | Callable[[State], Tensor] | None = None,
        augment: Augment | None = None,
        max_steps: int = 16**4,
        stepping: Stepping = "joint",
        compile: bool = False,
    ) -> None:
        super().__init__(
            solver=solver,
            rtol=rtol,
            atol=atol,
            adjoint=adjoint,
            dt0=dt0,
            controller=controller,
            norm=norm,
            max_steps=max_steps,
            stepping=stepping,
            compile=compile,
        )
        self.field = field
        self.t0 = t0
        self.t1 = t1
        self.augment = augment

    def forward(self, x: Tensor) -> Tensor:
        """Solve from ``y(t0) = x`` and return ``y(t1)``."""
        y0 = as_state(x if self.augment is None else self.augment(x))
        y1: Tensor = self._solve(self.field, y0, self.t0, self.t1).ys[-1]
        return y1

    def extra_repr(self) -> str:
        """Describe the solve."""
        return f"t0={self.t0}, t1={self.t1}, {self._describe_solve()}"
