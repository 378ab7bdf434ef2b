"""The state of a reverse solve: y, its adjoint and the parameters', as one packed vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..capture import Guard, operations_so_far
from ..controllers.norms import Norm, joined, scalar
from ..problem import PackedField
from ..state import Packing, State
from .base import pulled_back

__all__ = [
    "AdjointField",
    "ReverseNorm",
    "adjoint_norm",
    "by_parameter",
    "extended",
    "reverse_norm",
]

ReverseNorm = Callable[[State, State, Mapping[Tensor, Tensor]], Tensor]
"""(y, adjoint, parameters' adjoints by parameter) -> scalar: each an error over tolerance."""


class AdjointField:
    """(y, a, theta's adjoint) -> their rates of change; stands in for a `PackedField`.

    Args:
        field: the packed field.
        captured: the parameters.
        guard: sees to it that no parameter is missed.
    """

    def __init__(self, field: PackedField, captured: Sequence[Tensor], guard: Guard) -> None:
        self.field = field
        self.captured = captured
        self.guard = guard
        self.touched = [False] * len(captured)
        inner = field.packing
        self.dtype = inner.dtype
        count = sum(_size(tensor, inner.dtype) for tensor in captured)
        shapes = (*inner.shapes, *inner.shapes, torch.Size([count]))
        self.packing = Packing(
            template=(),
            shapes=shapes,
            dtypes=(inner.dtype,) * len(shapes),
            sizes=tuple(shape.numel() for shape in shapes),
            dtype=inner.dtype,
            device=inner.device,
            batch=None,
        )
        self._size = inner.size

    def __call__(self, t: Tensor, state: Tensor) -> Tensor:
        """The rates of change of all three, packed."""
        y, adjoint = state[: self._size], state[self._size : 2 * self._size]
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            before = operations_so_far(leaf)
            slope = self.field(t, leaf)
            size = operations_so_far(leaf) - before
        if not slope.requires_grad:  # a field that depends on nothing but t
            return torch.cat([slope, torch.zeros_like(state[self._size :])])
        self.guard.check([slope], [leaf], size)
        found: tuple[Tensor | None, ...] = pulled_back([slope], [-adjoint], [leaf, *self.captured])
        rate = torch.zeros_like(leaf) if found[0] is None else found[0]
        return torch.cat([slope.detach(), rate, *self.flattened(found[1:])])

    def flattened(self, gradients: Sequence[Tensor | None]) -> list[Tensor]:
        """Gradients of the parameters as they lie in the packed state; notes which there are."""
        self.touched = [
            before or gradient is not None
            for before, gradient in zip(self.touched, gradients, strict=True)
        ]
        return [
            _flattened(torch.zeros_like(tensor) if gradient is None else gradient, self.dtype)
            for gradient, tensor in zip(gradients, self.captured, strict=True)
        ]


def _size(tensor: Tensor, dtype: torch.dtype) -> int:
    """Elements that a tensor's gradient takes in a vector of `dtype`."""
    return tensor.numel() * (2 if tensor.is_complex() and not dtype.is_complex else 1)


def _flattened(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """A gradient as a vector of `dtype`; complex numbers as pairs where it is real."""
    if gradient.is_complex() and not dtype.is_complex:
        gradient = torch.view_as_real(gradient.resolve_conj())
    return gradient.reshape(-1).to(dtype)


def _unflattened(vector: Tensor, like: Tensor) -> Tensor:
    """What `_flattened` made, shaped as the tensor whose gradient it is."""
    if like.is_complex() and not vector.is_complex():
        return torch.view_as_complex(vector.view(*like.shape, 2)).to(like)
    real = vector.real if vector.is_complex() and not like.is_complex() else vector
    return real.view(like.shape).to(like)


def extended(tolerance: float | Tensor, size: int, count: int) -> float | Tensor:
    """A tolerance of the state, for state and adjoint alike; parameters get the tightest."""
    if not isinstance(tolerance, Tensor) or tolerance.ndim == 0:
        return tolerance
    tolerance = tolerance.expand(size)
    return torch.cat([tolerance, tolerance, tolerance.min().expand(count)])


def adjoint_norm(norm: Norm, size: int, seminorm: bool) -> Norm:
    """The largest of the state's norm, the adjoint's and, unless left out, the parameters' RMS."""

    def of_all(*errors: Tensor, combine: Any = None) -> Tensor:
        parts = [[e[:size] for e in errors], [e[size : 2 * size] for e in errors]]
        norms = [norm(*part, combine=combine) for part in parts]
        if not seminorm and errors[0].numel() > 2 * size:
            rest = [e[2 * size :] for e in errors]
            sizes = [torch.linalg.vector_norm(e) / e.numel() ** 0.5 for e in rest]
            norms.append(joined(sizes, combine))
        return torch.stack(norms).amax(0)

    return of_all


def by_parameter(vector: Tensor, parameters: Sequence[Tensor]) -> dict[Tensor, Tensor]:
    """A vector of the parameters' adjoints, or of their errors, by parameter."""
    sizes = [_size(tensor, vector.dtype) for tensor in parameters]
    pieces = zip(parameters, vector.split(sizes), strict=True)
    return {tensor: _unflattened(piece, tensor) for tensor, piece in pieces}


def reverse_norm(norm: ReverseNorm, packing: Packing, parameters: Sequence[Tensor]) -> Norm:
    """The user's norm over the packed state of the reverse solve."""

    def measured(error: Tensor) -> Tensor:
        size = packing.size
        y, adjoint, rest = error.split([size, size, len(error) - 2 * size])
        found = norm(packing.unpack(y), packing.unpack(adjoint), by_parameter(rest, parameters))
        return scalar(found)

    def of_all(*errors: Tensor, combine: Callable[..., Tensor] | None = None) -> Tensor:
        return joined([measured(error) for error in errors], combine)

    return of_all
