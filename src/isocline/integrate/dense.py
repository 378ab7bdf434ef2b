"""The continuous solution: one interpolant per accepted step."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..samples import PerSample
from ..solvers.base import DensePiece
from ..state import Packing, State

__all__ = ["DenseOutput"]


@dataclass(frozen=True, slots=True)
class DenseOutput:
    """Interpolants of all accepted steps, in order.

    Attributes:
        pieces: one a step.
        ends: float times at which the steps end.
        t0: start of the solve.
        y0: packed initial state.
        packing: layout of the state.
    """

    pieces: tuple[DensePiece, ...]
    ends: tuple[float, ...]
    t0: float
    y0: Tensor
    packing: Packing

    def __call__(self, t: Tensor | float | PerSample) -> State:
        """State at time(s) `t`: scalar, or shape (m,); see `Solution.__call__`."""
        if isinstance(t, PerSample):
            given = "PerSample, of a solve with joint stepping"
            raise InputError("t", given, "a scalar or shape (m,)")
        times = torch.as_tensor(t, dtype=torch.float64)
        if times.ndim > 1:
            raise InputError("t", f"shape {tuple(times.shape)}", "a scalar or shape (m,)")
        rows = self._rows(times.reshape(-1))
        return self.packing.unpack_rows(rows) if times.ndim else self.packing.unpack(rows[0])

    def _rows(self, times: Tensor) -> Tensor:
        sign = 1 if not self.ends or self.ends[-1] >= self.t0 else -1
        rising = [sign * end for end in self.ends]
        host = times.detach().tolist()
        last = self.ends[-1] if self.ends else self.t0
        for t in host:
            if not sign * self.t0 <= sign * t <= sign * last:
                raise InputError("t", str(t), f"a time within [{self.t0}, {last}]")
        if not self.pieces or not host:
            return self.y0.expand(len(host), -1)
        owners = [bisect_left(rising, sign * t) for t in host]
        rows: list[Tensor | None] = [None] * len(host)
        for owner in sorted(set(owners)):
            members = [i for i, piece in enumerate(owners) if piece == owner]
            values = self.pieces[owner].at(times[members])
            for i, value in zip(members, values, strict=True):
                rows[i] = value
        return torch.stack([row for row in rows if row is not None])
