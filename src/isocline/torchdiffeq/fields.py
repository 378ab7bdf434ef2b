"""The user's `func` as isocline's field: torchdiffeq is less strict about what it returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..errors import InputTypeError
from ..state import State
from .sides import Sides

__all__ = ["as_field"]


def as_field(func: Callable[..., Any], y0: State, sides: Sides | None) -> Callable[..., State]:
    """A field `(t, y, *parameters)` that calls `func(t, y)` and puts its answer into shape.

    A closure rather than an object, so that what `func` holds is as visible as without it.

    Args:
        func: `func(t, y) -> dy/dt`. For a tuple state any iterable of as many tensors does;
            each may have another shape of as many elements.
        y0: the initial state.
        sides: keeps times off jumps, or None.
    """
    if not callable(func):
        raise InputTypeError("func", type(func).__name__, "a callable func(t, y)")
    single = isinstance(y0, Tensor)
    shapes = [y0.shape] if single else [leaf.shape for leaf in y0]

    def field(t: Tensor, y: State, *_: Tensor) -> State:
        slope = func(t if sides is None else sides.inside(t), y)
        if single:
            return _shaped(slope, shapes[0])
        try:
            slopes = tuple(slope)
        except TypeError:
            slopes = ()
        if isinstance(slope, dict) or len(slopes) != len(shapes):
            return slope  # for `solve` to say what is wrong with it
        return tuple(map(_shaped, slopes, shapes))

    return field


def _shaped(slope: Any, shape: Any) -> Any:
    """A tensor in the shape of the state, if it has as many elements."""
    if isinstance(slope, Tensor) and slope.shape != shape and slope.numel() == shape.numel():
        return slope.reshape(shape)
    return slope
