"""Steps of implicit Runge-Kutta methods, of constant length.

The equations of the stages are solved to the precision of the state (`equations.py`), stage by
stage where the table allows it; the gradient is that of their exact solution (`gradient.py`).

How often the field is evaluated depends on the problem. Each stage takes one evaluation for each
number in a sample, for the Jacobian, and one for each correction of Newton's method; a sample that
is too large for a matrix takes some for each correction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...state import Packing
from ...transforms import active
from ..base import DensePiece, Field, Memory, Step, Time
from ..explicit import StageTimes
from ..tableau import Row
from .equations import Setting, StageEquations
from .gradient import attached
from .layout import Layout
from .newton import relaxed, solve
from .tableau import ImplicitTableau

__all__ = ["ImplicitStepper"]


class _Uncounted:
    """For a field that does not count what is done with it."""

    jacobians = 0
    linear_solves = 0


class _UnsolvedError(Exception):
    """The equations of a block of stages could not be solved.

    Attributes:
        samples: which samples are at fault, shape (samples,), bool.
        broken: whether the field itself is not finite there.
    """

    def __init__(self, samples: Tensor, broken: bool) -> None:
        super().__init__()
        self.samples = samples
        self.broken = broken


class _RealField:
    """A field over complex states as one over their real and imaginary parts, in turns."""

    def __init__(self, field: Field) -> None:
        self.field = field

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return _as_real(self.field(t, _as_complex(y)))


class ImplicitStepper:
    """Takes steps of one table; a slope is handed on only if its first stage is explicit."""

    combine = None

    def __init__(self, tableau: ImplicitTableau, field: Field, packing: Packing) -> None:
        if active():
            raise InputError(
                "solver",
                f"{tableau.name} under a transform of torch.func, or in forward mode",
                "a solver without equations to solve in its steps",
                "Newton's method decides on the host. Choose an explicit solver, such as Tsit5; "
                "or differentiate with `torch.autograd`, and lay the members of a vmap into a "
                "batch of states.",
            )
        self.tableau = tableau
        self.complex = packing.dtype.is_complex
        self.field: Field = _RealField(field) if self.complex else field
        self.dtype, self.device = packing.time_dtype, packing.device
        self.layout = Layout(packing)
        # A field that computes in less than the state's precision bounds what can be solved for.
        autocast = getattr(field, "autocast", None)
        least = 0.0 if autocast is None else torch.finfo(autocast.dtype).eps
        resolution = [max(least, eps) for eps in self.layout.resolution]
        counter: Any = field if hasattr(field, "jacobians") else _Uncounted()
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        self.setting = Setting.of(self.field, self.layout, resolution, like, counter)
        self._accuracy = torch.finfo(self.dtype).eps
        self._blocks = tableau.blocks
        self._nodes = [float(c) for c in tableau.c]
        self._table = _floats([*tableau.a, tableau.b])
        self._weights = _floats(tableau.interpolant)

    def init(self, t: Time, y: Tensor, f0: Tensor | None = None) -> Memory:
        """The field at (t, y), where the first stage is just that."""
        if not self._blocks[0].explicit:
            return Memory()
        return Memory(self._first(self._times(t, t), self._real(y)) if f0 is None else f0)

    def step(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """One step from (t, y) to t_next."""
        h, times, start = t_next - t, self._times(t, t_next), self._real(y)
        rows = (h * self._table).to(device=self.device, dtype=self.dtype)
        first = None if memory is None else memory.slope
        if self._blocks[0].explicit and first is None:
            first = self._first(times, start)
        failed = False
        try:
            slopes = torch.stack(self._stages(times, start, rows, _number(h), first))
            y1 = start + rows[-1] @ slopes
        except _UnsolvedError as failure:
            slopes = start.new_zeros(self.tableau.stages, start.numel())
            y1, failed = self._failed(start, failure.samples), not failure.broken
        piece = DensePiece(t, t_next, y, self._given(slopes), self._weights)
        return _ImplicitStep(self._given(y1), (), Memory(), Memory(first), piece, failed)

    def advance(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """The same: there is no error estimate to leave out."""
        return self.step(t, t_next, y, memory)

    def _stages(
        self, times: StageTimes, start: Tensor, rows: Tensor, h: float, first: Tensor | None
    ) -> list[Tensor]:
        """All stages' slopes."""
        slopes, guess = list[Tensor](), start.detach()
        for block in self._blocks:
            if block.explicit and first is not None:
                slopes.append(self._real(first))
                continue
            base = start
            if slopes:
                base = start + rows[block.start, : block.start] @ torch.stack(slopes)
            matrix = rows[block.start : block.stop, block.start : block.stop]
            inside = [times[i] for i in range(block.start, block.stop)]
            found = self._solved(inside, base, matrix, h, guess)
            guess = (base + matrix @ found)[-1].detach()
            slopes += found.unbind()
        return slopes

    def _solved(
        self, times: list[Tensor], base: Tensor, matrix: Tensor, h: float, guess: Tensor
    ) -> Tensor:
        """The slopes of one block of stages, shape (stages, N), whose states are near `guess`.

        Raises:
            _UnsolvedError: if there is no solution that Newton's method finds.
        """
        with torch.no_grad():
            start, fixed = base.detach(), matrix.detach()
            equations = StageEquations(self.setting, times, start, fixed, h)
            if len(times) == 1:
                first = ((guess - start) / fixed[0, 0]).nan_to_num(0.0, 0.0, 0.0).unsqueeze(0)
            else:  # the state at the start of the step itself
                first = start.new_zeros(len(times), start.numel())
            found = solve(equations, first, self._accuracy, self.setting.noise)
            if not found.converged and found.x.isfinite().all():
                found = solve(
                    equations, relaxed(equations, first), self._accuracy, self.setting.noise
                )
            if not found.converged:
                samples = equations.unsolved(found.correction, found.x, self.setting.noise)
                broken = not equations.residual(first).isfinite().all()
                raise _UnsolvedError(samples, broken)
        if torch.is_grad_enabled():
            return attached(equations, base, matrix, found.x)
        return found.x

    def _failed(self, start: Tensor, samples: Tensor) -> Tensor:
        """The state with NaN in some samples, which says that they have no next one."""
        rows = self.layout.rows(start.detach()).clone()
        rows[samples] = torch.nan
        return self.layout.packed(rows)

    def _first(self, times: StageTimes, start: Tensor) -> Tensor:
        """The field at the start."""
        return _lasting(self._given(self.field(times[0], start)))

    def _times(self, t: Time, t_next: Time) -> StageTimes:
        return StageTimes(self._nodes, t, t_next, self.device, self.dtype)

    def _real(self, vector: Tensor) -> Tensor:
        return _as_real(vector) if self.complex else vector

    def _given(self, vector: Tensor) -> Tensor:
        return _as_complex(vector) if self.complex else vector


@dataclass(slots=True)
class _ImplicitStep(Step):
    """A step with its interpolant, which costs nothing more."""

    piece: DensePiece
    failed: bool

    def dense(self) -> DensePiece:
        return self.piece

    @property
    def unsolved(self) -> bool:
        return self.failed


def _number(h: Time) -> float:
    return h.item() if isinstance(h, Tensor) else h


def _lasting(slope: Tensor) -> Tensor:
    """A slope safe to keep: a field may write all its answers into one buffer of its own."""
    return slope if slope.requires_grad else slope.clone()


def _as_real(vector: Tensor) -> Tensor:
    """Real and imaginary parts of complex numbers (..., N), in turns: (..., 2 N)."""
    return torch.view_as_real(vector.resolve_conj()).flatten(-2)


def _as_complex(vector: Tensor) -> Tensor:
    """The complex numbers (..., N) that `_as_real` made (..., 2 N) of."""
    return torch.view_as_complex(vector.unflatten(-1, (-1, 2)))


def _floats(rows: Iterable[Row]) -> Tensor:
    """Exact coefficients in double precision, on the host."""
    return torch.tensor([[float(x) for x in row] for row in rows], dtype=torch.float64)
