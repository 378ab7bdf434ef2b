"""Times as the loop has them, floats, and as steps are given them: tensors if they need grad."""

from __future__ import annotations

import torch
from torch import Tensor

from ..problem import Problem, TimeTensors
from ..solvers.base import Time

__all__ = ["Clock"]


class Clock:
    """Turns the loop's floats into what steps and outputs are given.

    Without time tensors a float stays a float. With them, the start of the first step becomes
    the tensor t0, the end of the last the tensor t1, and output times become slices of ts.

    Args:
        problem: gives the span as floats.
        ts: output times as floats.
        times: tensors to put in place of them, or None.
    """

    def __init__(
        self, problem: Problem, ts: tuple[float, ...], times: TimeTensors | None = None
    ) -> None:
        self._t0, self._t1 = problem.t0, problem.t1
        self._ts = ts
        self._times = times

    @property
    def recording(self) -> bool:
        """Whether times are tensors that record a gradient."""
        return self._times is not None

    def time(self, t: float) -> Time:
        """The end of a step."""
        if self._times is None:
            return t
        if t == self._t1:
            return self._times.t1
        return self._times.t0 if t == self._t0 else t

    def outputs(self, first: int, last: int) -> Tensor:
        """Output times ts[first:last] as a float64 tensor on the host, for the interpolant."""
        if self._times is not None:
            return self._times.ts[first:last]
        return torch.tensor(self._ts[first:last], dtype=torch.float64)
