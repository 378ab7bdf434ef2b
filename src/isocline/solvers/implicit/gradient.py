"""The gradient of implicit stages, by the implicit function theorem.

The stages K solve K = f(Y(K)). Newton's method finds their value without a graph, and no gradient
goes through its iterations. Instead one more correction is recorded,

    K + M^-1 (f(Y(K)) - K),    M = I - h A (x) df/dy at the solution, a constant,

whose value is K to the last bit, and whose derivative is that of the solution, since M^-1 is the
true inverse there. The derivative of this derivative is not: of it the K under f is a constant. So
a second correction is recorded around the first one. As each of them squares what the
ones before have left, n corrections are exact to the n-th derivative.

Systems with M are solved in the backward pass, with M's products from the recorded graph, exactly,
and with blocks from differences as the preconditioner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import GradientError
from .equations import StageEquations
from .krylov import gmres
from .newton import solve

__all__ = ["attached"]

_DERIVATIVES = 2
"""How many times a step can be differentiated."""

_INEXACT = 1e-10
_PRODUCTS = 200


def attached(equations: StageEquations, base: Tensor, matrix: Tensor, solution: Tensor) -> Tensor:
    """The same slopes, carrying the gradient of the solution; as they are if there is none.

    Args:
        equations: solved, without a graph.
        base, matrix: what they are made of, with a graph.
        solution: their solution, shape (stages, N).
    """
    known, operator = solution, None
    for level in range(_DERIVATIVES):
        if level:
            known = _Still.apply(known)  # type: ignore[no-untyped-call]
        at = (base + matrix @ known).unbind()
        slopes = _slopes(equations, at)
        if operator is None:
            if not any(slope.requires_grad for slope in slopes):
                return solution
            if not at[0].requires_grad:  # M's products ask for a graph from here to the slopes
                at = tuple(y.detach().requires_grad_() for y in at)
                slopes = _slopes(equations, at)
            operator = _Linearised(equations, matrix.detach(), solution, at, slopes)
        residual = torch.stack(slopes) - known
        known = _Corrected.apply(known, residual, operator)  # type: ignore[no-untyped-call]
    return _limited(known, _DERIVATIVES)


def _slopes(equations: StageEquations, at: Sequence[Tensor]) -> list[Tensor]:
    """The field at states that carry a graph."""
    found = [equations.field(t, y) for t, y in zip(equations.times, at, strict=True)]
    return [slope if slope.requires_grad else slope.clone() for slope in found]


class _Linearised:
    """M = I - h A (x) df/dy at the solution, and its transpose.

    Args:
        equations: for the preconditioner.
        matrix: h A, without a graph.
        solution: the slopes K.
        at, slopes: the stages' states and the field there, with the graph between them.
    """

    def __init__(
        self,
        equations: StageEquations,
        matrix: Tensor,
        solution: Tensor,
        at: Sequence[Tensor],
        slopes: Sequence[Tensor],
    ) -> None:
        self.equations, self.matrix, self.solution = equations, matrix, solution
        self.at, self.slopes = at, slopes
        self._fresh = False

    def refresh(self) -> None:
        """The preconditioner at the solution: the one of the last iteration is but near it."""
        if not self._fresh:
            with torch.no_grad():
                self.equations.residual(self.solution)
                self.equations.refresh()
            self._fresh = True

    def product(self, v: Tensor, transposed: bool) -> Tensor:
        """M v, or its transpose times v."""
        if transposed:
            return v - self.matrix.t() @ self._pulled(v)
        with torch.enable_grad():  # the derivative of a product with the transpose, which is linear
            dual = torch.zeros_like(v, requires_grad=True)
            pulled = self._pulled(dual, create_graph=True)
            if not pulled.requires_grad:
                return v
            (pushed,) = torch.autograd.grad(pulled, dual, self.matrix @ v)
        return v - pushed

    def _pulled(self, v: Tensor, create_graph: bool = False) -> Tensor:
        """The products of each stage's transposed Jacobian with its part of v."""
        pairs = [(k, part) for k, part in zip(self.slopes, v, strict=True) if k.requires_grad]
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            [k for k, _ in pairs],
            self.at,
            [part for _, part in pairs],
            allow_unused=True,
            retain_graph=True,
            create_graph=create_graph,
        )
        zero = torch.zeros_like(v[0])
        return torch.stack([zero if g is None else g for g in found])


class _Linear:
    """The system M x = b or its transpose, as Newton's method sees it."""

    linear = True

    def __init__(self, operator: _Linearised, right: Tensor, transposed: bool) -> None:
        self.operator, self.right, self.transposed = operator, right, transposed
        self.ladder, self.price = operator.equations.ladder, math.inf

    def residual(self, x: Tensor) -> Tensor:
        return self.right - self.operator.product(x, self.transposed)

    def refresh(self, shift: float = 0.0) -> None:
        self.operator.refresh()

    def preconditioned(self, residual: Tensor) -> Tensor:
        return self.operator.equations.preconditioned(residual, self.transposed)

    def krylov(self, residual: Tensor) -> Tensor:
        found = gmres(
            lambda v: self.operator.product(self.preconditioned(v), self.transposed),
            residual,
            _INEXACT,
            _PRODUCTS,
        )
        return self.preconditioned(found)

    def measure(self, correction: Tensor, x: Tensor) -> tuple[float, float]:
        layout = self.operator.equations.layout
        moved, scale = layout.largest(correction), layout.largest(x)
        # A sample whose part is next to nothing is measured by the others, as rounding is.
        precision = torch.finfo(x.dtype)
        floor = (scale.max() * precision.eps**0.5).clamp(min=precision.tiny)
        return moved.max().item(), (moved / scale.maximum(floor)).max().item()


class _Inverse(torch.autograd.Function):
    """b -> M^-1 b, or with the transpose; linear, so differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, right: Tensor, operator: _Linearised, transposed: bool) -> Tensor:
        ctx.operator, ctx.transposed = operator, transposed
        precision = torch.finfo(right.dtype).eps
        equations = _Linear(operator, right, transposed)
        found = solve(equations, torch.zeros_like(right), precision, precision**0.5)
        if not found.converged and right.isfinite().all():
            raise GradientError(
                "the gradient of an implicit step is the solution of a linear system, which could "
                "not be solved: the step's own equations are nearly singular. Shorten the step."
            )
        return found.x

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = cotangents
        return _Inverse.apply(g, ctx.operator, not ctx.transposed), None, None  # type: ignore[no-untyped-call]


class _Corrected(torch.autograd.Function):
    """known + M^-1 residual, where the residual is zero to rounding, and counts as zero."""

    @staticmethod
    def forward(ctx: Any, known: Tensor, residual: Tensor, operator: _Linearised) -> Tensor:  # noqa: ARG004
        ctx.set_materialize_grads(False)
        ctx.operator = operator
        return known.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        (g,) = cotangents
        if g is None:
            return None, None, None
        return g, _Inverse.apply(g, ctx.operator, True), None  # type: ignore[no-untyped-call]


class _Still(torch.autograd.Function):
    """Identity, for what a recorded correction starts from.

    The gradient of the correction with respect to it vanishes, though its derivative does not. So
    it is dropped until a gradient is taken that can itself be differentiated.
    """

    @staticmethod
    def forward(ctx: Any, known: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.dropped = True
        return known.view_as(known)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Tensor | None:
        ctx.dropped = ctx.dropped and not torch.is_grad_enabled()
        return None if ctx.dropped else cotangents[0]


def _limited(tensor: Tensor, left: int, cause: Tensor | None = None) -> Tensor:
    """A tensor that can be differentiated `left` times; beyond that it is an error."""
    found: Tensor = _Limited.apply(tensor, left, cause)  # type: ignore[no-untyped-call]
    return found


class _Limited(torch.autograd.Function):
    """Identity; hands the limit, less one, on to its gradient.

    A gradient depends on more than its cotangent: on the `cause`, the tensor whose gradient it is.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, left: int, cause: Tensor | None) -> Tensor:
        output = tensor.view_as(tensor)
        ctx.left = left
        ctx.save_for_backward(output if cause is None else cause)
        return output

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = cotangents
        (cause,) = ctx.saved_tensors
        if ctx.left == 0:
            raise GradientError(
                f"a step of an implicit method can be differentiated {_DERIVATIVES} times: beyond "
                "that the graph which it records is not exact."
            )
        if not torch.is_grad_enabled():
            return g, None, None
        left = ctx.left - 1
        at_cause = None
        if ctx.needs_input_grad[2]:
            at_cause = _limited(torch.zeros_like(cause), left, cause)
        return _limited(g, left, cause), None, at_cause
