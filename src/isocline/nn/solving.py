"""What every module with a solve inside has: settings to change at any time, and counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._solve import solve
from ..adjoints import Adjoint
from ..compiling import untraced
from ..controllers import Controller
from ..problem import SaveAt
from ..solution import Solution, Statistics
from ..solvers import BlackBox, Solver
from ..state import State

__all__ = ["SolvingModule", "Stepping", "as_state"]

Stepping = Literal["joint", "per_sample"]


class SolvingModule(nn.Module):
    """Settings of a solve as plain attributes, and the statistics of the last one.

    Args:
        solver: Name of a solver, or a solver, or a black box.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        adjoint: How to differentiate; ``None`` for the front door's default, `Checkpointed`, or
            `Backsolve` for a black box.
        dt0: First step; solvers without an error estimate take all their steps with it.
        controller: Chooses step sizes; ``None`` for the front door's default.
        norm: Of the error, as for `solve`: ``None`` keeps the tolerance for each sample, "rms" on
            the average of the batch, in fewer steps.
        max_steps: Steps after which the solve fails.
        stepping: "joint", or "per_sample": each sample at its own pace; see `solve`.
        compile: Whether to run steps as compiled code. The attribute is `compiled`, for `compile`
            is a method of every module.
    """

    def __init__(
        self,
        *,
        solver: str | Solver | BlackBox,
        rtol: float,
        atol: float,
        adjoint: Adjoint | None = None,
        dt0: float | None = None,
        controller: Controller | None = None,
        norm: str | Callable[[State], Tensor] | None = None,
        max_steps: int = 16**4,
        stepping: Stepping = "joint",
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.solver = solver
        self.rtol = rtol
        self.atol = atol
        self.adjoint = adjoint
        self.dt0 = dt0
        self.controller = controller
        self.norm = norm
        self.max_steps = max_steps
        self.stepping: str = stepping  # a subclass may know further ways
        self.compiled = compile
        self._solves: list[Statistics] = []

    @untraced
    def _solve(
        self,
        field: Callable[..., State],
        y0: State,
        t0: float | Tensor,
        t1: float | Tensor,
        *,
        args: tuple[Any, ...] = (),
        save: SaveAt | None = None,
        continued: bool = False,
        **changed: Any,
    ) -> Solution:
        """Solve with the module's settings, but for those in `changed`; remember the statistics.

        A solve that is `continued` belongs to the same pass as the one before: both are counted.
        """
        settings: dict[str, Any] = {
            "solver": self.solver,
            "rtol": self.rtol,
            "atol": self.atol,
            "adjoint": self.adjoint,
            "dt0": self.dt0,
            "controller": self.controller,
            "norm": self.norm,
            "max_steps": self.max_steps,
            "stepping": self.stepping,
            "compile": self.compiled,
        }
        solution = solve(field, y0, t0, t1, args=args, save=save, **(settings | changed))
        if not continued:
            self._forget_solves()
        self._solves.append(solution.stats)
        return solution

    def _forget_solves(self) -> None:
        """Begin a pass: what is solved from here on is counted together."""
        self._solves = []

    @property
    def stats(self) -> Statistics | None:
        """Statistics of the last solve, or ``None`` before the first; copies start without."""
        return self._solves[-1] if self._solves else None

    @property
    def nfe_forward(self) -> int:
        """Evaluations of the field in the last forward pass, over all its solves."""
        return sum(int(stats.nfe_forward) for stats in self._solves)

    @property
    def nfe_backward(self) -> int:
        """Evaluations of the field in its backward pass, 0 until that has run."""
        return sum(int(stats.nfe_backward) for stats in self._solves)

    @property
    def nfe(self) -> int:
        """Evaluations of the field in the last pass, forward and backward."""
        return self.nfe_forward + self.nfe_backward

    def __getstate__(self) -> dict[str, Any]:
        # The statistics belong to one solve, and the backward pass of that solve writes to them: a
        # copy of the module must neither share nor carry them.
        return {**self.__dict__, "_solves": []}

    def _describe_solve(self) -> str:
        described = f"solver={self.solver!r}, rtol={self.rtol:g}, atol={self.atol:g}"
        return described if self.stepping == "joint" else f"{described}, {self.stepping}"


def as_state(x: Tensor) -> Tensor:
    """`x` as the start of a solve: under autocast in float32.

    The field computes in the lower precision; the state's small increments would be lost in it.
    """
    return x.float() if torch.is_autocast_enabled(x.device.type) else x
