"""What torchdiffeq demands of its arguments, checked with errors of its kinds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, InputTypeError
from ..state import State
from .errors import ArgumentError, ArgumentTypeError

__all__ = ["check_state", "check_times", "tolerance"]


def check_state(y0: Any) -> State:
    """The initial state: a tensor, or a tuple of tensors.

    Raises:
        ArgumentTypeError: for anything else.
    """
    if isinstance(y0, Tensor):
        return y0
    if not isinstance(y0, tuple) or not all(isinstance(leaf, Tensor) for leaf in y0):
        given = type(y0).__name__
        if isinstance(y0, tuple):
            given = f"({', '.join(type(leaf).__name__ for leaf in y0)})"
        hint = "`isocline.solve` takes nested lists and dicts too."
        raise ArgumentTypeError("y0", given, "a torch.Tensor or a tuple of them", hint)
    return y0


def check_times(t: Any) -> Tensor:
    """The output times: floating-point, of shape (T,), strictly increasing or decreasing.

    Raises:
        ArgumentTypeError: unless it is a tensor.
        InputTypeError: for a dtype that is not floating-point.
        ArgumentError: for another shape, or times out of order.
    """
    if not isinstance(t, Tensor):
        hint = "Write `torch.tensor(...)`."
        raise ArgumentTypeError("t", type(t).__name__, "t must be a torch.Tensor", hint)
    if not t.is_floating_point():
        expected = "t must be a floating point Tensor"
        raise InputTypeError("t", f"dtype {t.dtype}", expected, "Call `.float()`.")
    if t.ndim != 1:
        raise ArgumentError("t", f"shape {tuple(t.shape)}", "t must be one dimensional")
    if len(t) == 0:
        raise ArgumentError("t", "no times", "at least one time")
    times: list[float] = t.detach().tolist()
    if not all(a < b for a, b in pairwise(times)) and not all(a > b for a, b in pairwise(times)):
        given = str(times if len(t) < 9 else f"{len(t)} times")
        raise ArgumentError("t", given, "t must be strictly increasing or decreasing")
    return t


def tolerance(name: str, value: Any, y0: State) -> float | Tensor | tuple[Tensor, ...]:
    """A tolerance as `isocline.solve` takes it.

    Args:
        name: "rtol" or "atol".
        value: a number or a tensor; for a tuple state also one of these for each entry.
        y0: the state.

    Raises:
        ArgumentError: if it requires grad, or has not one entry for each of the state's.
        InputError: for a shape that does not fit.
    """
    if isinstance(value, Tensor) and value.requires_grad:
        raise ArgumentError(name, "a tensor that requires grad", f"{name} cannot require gradient")
    if isinstance(y0, Tensor) or not _has_entries(value):
        return value if isinstance(value, Tensor) and value.ndim else _number(name, value)
    entries: Sequence[Any] = list(value)
    if len(entries) != len(y0):
        raise ArgumentError(
            name,
            f"{len(entries)} entries",
            f"tupled {name} must have the same length as the tuple y0, {len(y0)}",
        )
    return tuple(_entry(name, entry, leaf) for entry, leaf in zip(entries, y0, strict=True))


def _has_entries(value: Any) -> bool:
    """Whether it can be gone through: a 0-d tensor cannot."""
    try:
        iter(value)
    except TypeError:
        return False
    return True


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputTypeError(name, type(value).__name__, "a number or a tensor") from None


def _entry(name: str, entry: Any, leaf: Tensor) -> Tensor:
    """The tolerance of one entry of the state, in its shape."""
    found = torch.as_tensor(entry)
    try:
        if found.ndim == 1:  # torchdiffeq lays the entries of the state flat
            return found.expand(leaf.numel()).reshape(leaf.shape)
        return found.expand(leaf.shape)
    except RuntimeError:
        expected = f"a number, or one for each of {leaf.numel()} elements"
        raise InputError(name, f"shape {tuple(found.shape)}", expected) from None
