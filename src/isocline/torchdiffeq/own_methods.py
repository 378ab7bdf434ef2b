"""Methods that users wrote as classes of `FixedGridODESolver`, as solvers of isocline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..solvers.base import DensePiece, Field, Memory, Step, Time
from ..state import Packing
from .internals import FixedGridODESolver, Perturb

__all__ = ["OwnMethod"]

_HERMITE = torch.tensor([[1.0, -2.0, 1.0], [0.0, -1.0, 1.0], [0.0, 3.0, -2.0]], dtype=torch.float64)
"""Coefficients of theta, theta^2, theta^3: for the slopes at both ends, and the mean slope."""


@dataclass(frozen=True, slots=True)
class OwnMethod:
    """A method of fixed steps whose steps the user's class takes.

    What happens in a step is not known, and the class may keep things from one to the next: only
    `Direct` differentiates it.

    Attributes:
        cls: the user's class.
        options: handed to its constructor, with rtol and atol.
    """

    cls: type[FixedGridODESolver]
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the class."""
        return self.cls.__name__

    @property
    def reference(self) -> str:
        """The class."""
        return f"{self.cls.__module__}.{self.cls.__qualname__}"

    @property
    def order(self) -> int:
        """As the class says."""
        return int(self.cls.order)

    @property
    def dense_order(self) -> int:
        """That of the cubic through both ends, or of the method if it is less."""
        return min(self.order, 3)

    @property
    def error_order(self) -> int:
        """0: there is no error estimate."""
        return 0

    @property
    def adaptive(self) -> bool:
        """Steps are fixed."""
        return False

    @property
    def evaluations_per_step(self) -> int:
        """Not known: 1, the least."""
        return 1

    def bind(self, field: Field, packing: Packing) -> _OwnStepper:
        """The method bound to the packed `field`."""
        return _OwnStepper(self, field, packing)


class _OwnStepper:
    """Takes steps with an object of the user's class, made when the initial state is known."""

    combine: Callable[..., Tensor] | None = None

    def __init__(self, method: OwnMethod, field: Field, packing: Packing) -> None:
        self.method, self.field, self.packing = method, field, packing
        self.shape = packing.shapes[0] if packing.single else torch.Size([packing.size])
        self._made: FixedGridODESolver | None = None

    def init(self, t: Time, y: Tensor, f0: Tensor | None = None) -> Memory:
        """Nothing: the user's class finds out for itself."""
        self._object(y)
        return Memory()

    def step(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """One step by the user's class."""
        made = self._object(y)
        start, end = self._time(t), self._time(t_next)
        answer = made._step_func(self._asked, start, end - start, end, y.view(self.shape))
        change, slope = answer if isinstance(answer, tuple) else (answer, None)
        y1 = y + change.reshape(-1).to(y.dtype)
        return _OwnStep(y1, (), Memory(), Memory(), self, t, t_next, y, slope)

    def advance(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """The same."""
        return self.step(t, t_next, y, memory)

    def _object(self, y: Tensor) -> FixedGridODESolver:
        if self._made is None:
            start = y.view(self.shape)
            self._made = self.method.cls(func=self._asked, y0=start, **self.method.options)
        return self._made

    def _asked(self, t: Any, y: Tensor, *, perturb: Perturb = Perturb.NONE) -> Tensor:
        """The field as the user's class sees it."""
        time = torch.as_tensor(t).to(y.real)
        if perturb is not Perturb.NONE:
            plain = time.detach()
            far = plain + (1 if perturb is Perturb.NEXT else -1)
            time = time + (torch.nextafter(plain, far) - plain)
        return self.field(time, y.reshape(-1)).view(self.shape)

    def _time(self, t: Time) -> Tensor:
        return torch.as_tensor(t).to(self.packing.device, self.packing.time_dtype)


@dataclass(slots=True)
class _OwnStep(Step):
    stepper: _OwnStepper
    t: Time
    t_next: Time
    y0: Tensor
    slope: Tensor | None

    def dense(self) -> DensePiece:
        field, time = self.stepper.field, self.stepper._time
        start = field(time(self.t), self.y0) if self.slope is None else self.slope.reshape(-1)
        end = field(time(self.t_next), self.y1)
        h = self.t_next - self.t
        mean = (self.y1 - self.y0) / (h.to(self.y0) if isinstance(h, Tensor) else h)
        slopes = torch.stack([start.to(mean.dtype), end, mean])
        return DensePiece(self.t, self.t_next, self.y0, slopes, _HERMITE)
