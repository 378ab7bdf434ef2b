"""Neural CDE: a state that moves as a path through the observations does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...adjoints import Adjoint
from ...controllers import Constant
from ...errors import InputError
from ...irregular import IrregularBatch, Union, union_of
from ...problem import SaveAt
from ...solvers import Solver
from ...validate import check_solver
from ..solving import SolvingModule, as_state
from .cde_field import CDEField
from .path import CubicPath, slope_at
from .row_clock import RowClock, check_one_sided, slope_on_rows
from .splines import hermite, linear, natural_cubic

__all__ = ["NeuralCDE", "PathName"]

PathName = Literal["hermite", "natural_cubic", "linear"]

_PATHS: dict[str, Callable[..., CubicPath]] = {
    "hermite": hermite,
    "natural_cubic": natural_cubic,
    "linear": linear,
}


class NeuralCDE(SolvingModule):
    """Reads irregular series: dz = f(z) dX, along a path X through what was observed.

    Kidger et al. 2020, "Neural controlled differential equations for irregular time series". The
    state begins as a linear map of X at the series' first row, and its value at the last row is
    read out linearly.

    A CDE does not care how fast its path is run through, so that a series in a batch never waits
    for another, nor depends on it. There are two ways to step:

    - `row_steps` equal steps for each piece of the path (the default). A step never crosses a
      kink, so few evaluations go far, and the solve of one series is the same in any company.
    - ``row_steps=None``: steps by tolerance, through all series' spans as if they were one. The
      answer depends on the company within the tolerance.

    Times and values should be of the order of 1. Intensities are plain counts.

    Args:
        features: Features of a row.
        hidden: Size of the state.
        outputs: Size of the answer.
        field: ``field(z) -> (batch, hidden, channels)``; default: `CDEField`.
        path: How to pass through the observations: "hermite", "natural_cubic" or "linear". The
            last has jumps in its derivative at every row, which cost steps by tolerance dear.
        time: Whether the time is a channel of the path. Without it the answer does not depend on
            when things were observed, only on their order and, in curved paths, relative gaps.
        intensity: Whether running counts of observations are channels of the path too.
        row_steps: Steps for each piece between rows, at least 1; ``None`` for steps by tolerance.
        solver: Name of a solver, or a solver; ``None`` for "bosh3" with `row_steps` and "tsit5"
            without. With `row_steps`, one that needs no derivative at the end of a step.
        rtol, atol: As for `ODEBlock`, for steps by tolerance; lengths are fractions of the span.
        adjoint: As for `ODEBlock`.
        **settings: Further settings of `SolvingModule`; those of step sizes for steps by tolerance.

    Shape:
        answer: ``(batch, outputs)``.

    Raises:
        InputError: If a size is not positive, the path is unknown, or a batch does not fit.
        isocline.SolveError: From ``forward`` and ``states``, if the solve fails.
    """

    def __init__(
        self,
        features: int,
        hidden: int,
        outputs: int,
        *,
        field: nn.Module | Callable[[Tensor], Tensor] | None = None,
        path: PathName = "hermite",
        time: bool = True,
        intensity: bool = False,
        row_steps: int | None = 1,
        solver: str | Solver | None = None,
        rtol: float = 1e-4,
        atol: float = 1e-5,
        adjoint: Adjoint | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            solver=("tsit5" if row_steps is None else "bosh3") if solver is None else solver,
            rtol=rtol,
            atol=atol,
            adjoint=adjoint,
            **settings,
        )
        for name, size in (("hidden", hidden), ("outputs", outputs)):
            if size < 1:
                raise InputError(name, str(size), "at least 1")
        channels = int(time) + features * (1 + int(intensity))
        if features < 0 or channels < 1:
            given = f"{features}, with time={time}"
            raise InputError("features", given, "at least 1, or none and the time as a channel")
        if path not in _PATHS:
            raise InputError("path", repr(path), f"one of {', '.join(_PATHS)}")
        self.features = features
        self.path: PathName = path
        self.time = time
        self.intensity = intensity
        self.row_steps = row_steps
        self._check_steps()
        self.initial = nn.Linear(channels, hidden)
        self.field = CDEField(hidden, channels) if field is None else field
        self.readout = nn.Linear(hidden, outputs)

    def forward(self, batch: IrregularBatch) -> Tensor:
        """What is read out at the end of each series, ``(batch, outputs)``."""
        path = self._path(batch)
        states = self._over_span(path) if self.row_steps is None else self._over_rows(path)
        answer: Tensor = self.readout(states[-1])
        return answer

    def states(self, batch: IrregularBatch, times: Tensor) -> Tensor:
        """The state at given times, ``(batch, times, hidden)``; read it out with `readout`.

        Before the start of a series it is the initial state, beyond its end the last. With
        `natural_cubic`, a state depends on what is observed later too, and with all paths on the
        observation that ends the present piece.

        Args:
            batch: The series.
            times: ``(times,)`` for all series, or ``(batch, times)``; in any order. They carry no
                gradient.
        """
        if times.ndim not in (1, 2) or (times.ndim == 2 and len(times) != len(batch)):
            expected = f"(times,) or ({len(batch)}, times)"
            raise InputError("times", f"shape {tuple(times.shape)}", expected)
        path = self._path(batch)
        times = times.detach().to(path.knots).expand(len(batch), -1)
        if not times.numel():
            return path.knots.new_zeros(*times.shape, self.initial.out_features)
        if self.row_steps is None:
            union = union_of(path.pace(times))
            return union.gather(self._over_span(path, SaveAt(ts=union.times)))
        # As knots of their own, the times are ends of steps: nothing is interpolated.
        path, place = path.refined(times)
        return Union(times, place).gather(self._over_rows(path, SaveAt(t0=True, steps=True)))

    def _path(self, batch: IrregularBatch) -> CubicPath:
        if batch.features != self.features:
            raise InputError("batch", f"{batch.features} features", f"{self.features}")
        return _PATHS[self.path](batch, time=self.time, intensity=self.intensity)

    def _over_span(self, path: CubicPath, save: SaveAt | None = None) -> Tensor:
        """The states that `save` asks for, ``(saved, batch, hidden)``, by steps by tolerance."""
        path = path.paced().to(self.initial.weight.dtype)

        def rate(t: Tensor, z: Tensor, knots: Tensor, slopes: Tensor, last: Tensor) -> Tensor:
            return self._drive(z, slope_at(t, knots, slopes, last))

        # As arguments the path's tensors are seen by every adjoint, which gives them gradients.
        args = (path.knots, path.slopes(), path.last)
        z0 = as_state(self.initial(path.initial))
        states: Tensor = self._solve(rate, z0, 0.0, 1.0, args=args, save=save).ys
        return states

    def _over_rows(self, path: CubicPath, save: SaveAt | None = None) -> Tensor:
        """The states at the end, or at all knots if steps are saved: ``(saved, batch, hidden)``."""
        self._check_steps()
        steps = self.row_steps or 1
        path = path.to(self.initial.weight.dtype)
        clock = RowClock.of(path)
        z0 = as_state(self.initial(path.initial))
        if not clock.pieces or not len(z0):
            return z0.unsqueeze(0)

        # Each step is one unit of time, so that the ends of pieces are met to the last bit.
        def rate(t: Tensor, z: Tensor, table: Tensor) -> Tensor:
            return self._drive(z, slope_on_rows(t / steps, table) / steps)

        states: Tensor = self._solve(
            rate,
            z0,
            0.0,
            float(steps * clock.pieces),
            args=(clock.table,),
            save=save,
            dt0=1.0,
            controller=Constant(),
        ).ys
        return states[::steps]

    def _drive(self, z: Tensor, slope: Tensor) -> Tensor:
        matrix: Tensor = self.field(z)
        return torch.matmul(matrix, slope.to(matrix.dtype).unsqueeze(-1)).squeeze(-1)

    def _check_steps(self) -> None:
        if self.row_steps is None:
            return
        if self.row_steps < 1:
            raise InputError("row_steps", str(self.row_steps), "at least 1, or None")
        check_one_sided(check_solver(self.solver))

    def extra_repr(self) -> str:
        """Describe the path and the solve."""
        if self.row_steps is None:
            return f"path={self.path!r}, {self._describe_solve()}"
        return f"path={self.path!r}, solver={self.solver!r}, row_steps={self.row_steps}"
