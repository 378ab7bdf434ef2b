"""What public code imports from `torchdiffeq._impl`, as far as it means something here.

Most of it asks for `SOLVERS`. Some brings a method of its own, as a class made from
`FixedGridODESolver` whose `_step_func` takes one step, and adds it to `SOLVERS`: `OwnMethod` makes
a solver of isocline of such a class.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..solvers.tableau import Tableau
from ..solvers.tableaus import TABLEAUS
from ..state import State

__all__ = [
    "RK4",
    "Euler",
    "FixedGridODESolver",
    "Heun2",
    "Heun3",
    "Midpoint",
    "Perturb",
    "flat_to_shape",
    "handle_unused_kwargs",
    "linf_norm",
    "mixed_norm",
    "null_callback",
    "rk4_alt_step_func",
    "rms_norm",
    "zero_norm",
]


class Perturb(Enum):
    """On which side of a time a field is to be asked."""

    NONE = 0
    PREV = 1
    NEXT = 2


class FixedGridODESolver(ABC):
    """Base of methods that others write: a step from t0 to t1 of the user's own making.

    Args:
        func: the field, which takes a further keyword `perturb`.
        y0: the initial state; that of a tuple is laid flat.
        step_size, grid_constructor, interp: heeded by `odeint`.
        perturb: whether the field is to be kept off the ends of steps.
        unused_kwargs: rtol, atol and norm, which a method of fixed steps does not need. It warns
            of others.
    """

    order: ClassVar[int] = 1

    def __init__(
        self,
        func: Callable[..., Tensor],
        y0: Tensor,
        step_size: Any = None,
        grid_constructor: Any = None,
        interp: str = "linear",
        perturb: bool = False,
        **unused_kwargs: Any,
    ) -> None:
        self.atol, self.rtol = unused_kwargs.pop("atol", None), unused_kwargs.pop("rtol", None)
        unused_kwargs.pop("norm", None)
        handle_unused_kwargs(self, unused_kwargs)
        self.func, self.y0 = func, y0
        self.dtype, self.device = y0.dtype, y0.device
        self.step_size, self.grid_constructor = step_size, grid_constructor
        self.interp, self.perturb = interp, perturb

    @abstractmethod
    def _step_func(self, func: Any, t0: Tensor, dt: Tensor, t1: Tensor, y0: Tensor) -> Any:
        """The change of the state over a step, and the field at its start; or the change alone."""

    @classmethod
    def valid_callbacks(cls) -> set[str]:
        """Names of the callbacks that are served."""
        return {"callback_step"}


class _Tabled(FixedGridODESolver):
    """An explicit method from its table."""

    tableau: ClassVar[Tableau]

    def _step_func(self, func: Any, t0: Tensor, dt: Tensor, t1: Tensor, y0: Tensor) -> Any:
        return _explicit_step(self.tableau, func, t0, dt, t1, y0, None, self.perturb)


class Euler(_Tabled):
    """Euler's method."""

    tableau = TABLEAUS["euler"]


class Midpoint(_Tabled):
    """The midpoint rule."""

    order = 2
    tableau = TABLEAUS["midpoint"]


class Heun2(_Tabled):
    """Heun's method of order 2."""

    order = 2
    tableau = TABLEAUS["heun"]


class Heun3(_Tabled):
    """Heun's method of order 3."""

    order = 3
    tableau = TABLEAUS["heun3"]


class RK4(_Tabled):
    """Kutta's 3/8 rule."""

    order = 4
    tableau = TABLEAUS["rk38"]


def rk4_alt_step_func(
    func: Any,
    t0: Tensor,
    dt: Tensor,
    t1: Tensor,
    y0: Tensor,
    f0: Tensor | None = None,
    perturb: bool = False,
) -> Tensor:
    """The change of the state over a step of Kutta's 3/8 rule."""
    change: Tensor = _explicit_step(RK4.tableau, func, t0, dt, t1, y0, f0, perturb)[0]
    return change


def _explicit_step(
    table: Tableau,
    func: Any,
    t0: Tensor,
    dt: Tensor,
    t1: Tensor,
    y0: Tensor,
    f0: Tensor | None,
    perturb: bool,
) -> tuple[Tensor, Tensor]:
    """The change of the state over a step, and the field at its start."""

    def ask(t: Tensor, y: Tensor, side: Perturb) -> Tensor:
        slope: Tensor = func(t, y, perturb=side) if perturb else func(t, y)
        return slope

    slopes = [ask(t0, y0, Perturb.NEXT) if f0 is None else f0]
    for row, node in zip(table.a[1:], table.c[1:], strict=True):
        stage = y0 + dt * _summed(row, slopes)
        at_end = node == 1
        t = t1 if at_end else t0 + float(node) * dt
        slopes.append(ask(t, stage, Perturb.PREV if at_end else Perturb.NONE))
    return dt * _summed(table.b, slopes), slopes[0]


def _summed(weights: Sequence[Any], slopes: Sequence[Tensor]) -> Tensor:
    terms = [float(w) * k for w, k in zip(weights, slopes, strict=True) if w]
    return torch.stack(terms).sum(0)


def rms_norm(tensor: Tensor) -> Tensor:
    """Root mean square."""
    return tensor.abs().square().mean().sqrt()


def linf_norm(tensor: Tensor) -> Tensor:
    """Largest magnitude."""
    return tensor.abs().max()


def zero_norm(tensor: Tensor) -> float:  # noqa: ARG001
    """No norm at all."""
    return 0.0


def mixed_norm(tensors: Sequence[Tensor]) -> Any:
    """The largest root mean square of the entries."""
    return max(map(rms_norm, tensors)) if len(tensors) else 0.0


def flat_to_shape(tensor: Tensor, length: Sequence[int], shapes: Sequence[torch.Size]) -> State:
    """The entries of a state that was laid flat along the last axis.

    Args:
        tensor: shape (*length, elements).
        length: the axes before the state's own.
        shapes: of the entries.
    """
    pieces = tensor.split([shape.numel() for shape in shapes], dim=-1)
    return tuple(
        piece.reshape((*length, *shape)) for piece, shape in zip(pieces, shapes, strict=True)
    )


def handle_unused_kwargs(solver: Any, unused_kwargs: dict[str, Any]) -> None:
    """Warn of arguments that were not expected."""
    if unused_kwargs:
        warnings.warn(
            f"{type(solver).__name__}: Unexpected arguments {unused_kwargs}", stacklevel=3
        )


def null_callback(*args: Any, **kwargs: Any) -> None:
    """Do nothing."""
