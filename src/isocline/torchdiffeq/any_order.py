"""The exact gradient as `Checkpointed` finds it, and derivatives of any order as `Direct` does.

torchdiffeq's `odeint` is differentiated through its operations, so code may take a Hessian through
it, or a gradient penalty. An adjoint must be chosen before it is known whether anyone will.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..adjoints import Adjoint, Checkpointed, Direct
from ..adjoints.base import Trajectory, tensors_of_times
from ..adjoints.hooks import without_hooks
from ..problem import Plan, Problem, TimeTensors, autocast_off
from ..solution import Statistics

__all__ = ["AnyOrder", "for_transforms"]


@dataclass(frozen=True, slots=True)
class AnyOrder:
    """`Checkpointed`, but where its gradient is to be differentiated (`create_graph`), `Direct`.

    Then the solve is made again with a graph of all its operations. Dense output has the first
    derivative only.
    """

    def run(self, problem: Problem, plan: Plan, stats: Statistics) -> Trajectory:
        """Solve by `Checkpointed`; a gradient that needs a graph is found by `Direct`."""
        y0, times = problem.y0, problem.times
        if plan.save.dense:
            return Checkpointed().run(problem, plan, stats)
        # The start and the times may have been computed from what the field depends on. From
        # leaves of their own, no part of the gradient is counted twice.
        leaf = y0.detach().requires_grad_(y0.requires_grad)
        apart = replace(problem, y0=leaf, times=None if times is None else times.detached())
        found = Checkpointed().run(apart, plan, stats)
        node: Any = None if found.rows is None else found.rows.grad_fn
        if node is None:
            return found
        plain = replace(problem, y0=y0.detach(), times=None, f0=None)

        def again(starts: Sequence[Tensor | None]) -> Tensor:
            y0, t0, t1, ts = starts
            assert y0 is not None
            given = t0 is not None and t1 is not None and ts is not None
            traced = TimeTensors(t0, t1, ts) if given else None  # type: ignore[arg-type]
            with autocast_off(y0.device):
                rows = Direct().run(replace(plain, y0=y0, times=traced), plan, Statistics()).rows
            assert rows is not None  # as many as the first time
            return rows

        inner = [found.rows, leaf, *tensors_of_times(apart.times)]
        starts = [y0, *tensors_of_times(times)]
        found.rows = _AnyOrder.apply(again, inner, *starts, *node.inputs.captured)  # type: ignore[no-untyped-call]
        return found

    def keeps(self, steps: int, state: int, step: int) -> tuple[int, int]:
        """Estimated bytes kept: those of `Checkpointed`."""
        return Checkpointed().keeps(steps, state, step)


class _AnyOrder(torch.autograd.Function):
    """Rows of a solve, whose gradient can be had with a graph and without.

    It is given `again`, which solves anew; a list of the rows and the four leaves that they were
    computed from, whose graph is no part of the caller's; the four tensors for which these stand;
    and what the field depends on.
    """

    @staticmethod
    def forward(
        ctx: Any, again: Callable[..., Tensor], inner: list[Tensor], *outer: Tensor | None
    ) -> Tensor:
        ctx.again = again
        ctx.save_for_backward(*inner, *outer)
        return inner[0].detach().clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        rows, *tensors = ctx.saved_tensors
        leaves, starts, captured = tensors[:4], tensors[4:8], tensors[8:]
        wanted = [x is not None and x.requires_grad for x in (*starts, *captured)]
        again = torch.is_grad_enabled()
        gate = _Gate()
        if again:
            leaves = [None if x is None else _gated(gate, x) for x in starts]
            rows = ctx.again(leaves)
        sources = [x for x, want in zip((*leaves, *captured), wanted, strict=True) if want]
        # The user's hooks are for the whole gradient, which is handed on to them.
        with gate, without_hooks(captured):
            found = torch.autograd.grad(
                rows,
                sources,
                cotangents[0],
                retain_graph=True,
                create_graph=again,
                allow_unused=True,
            )
        parts = iter(found)
        gradients = [next(parts) if want else None for want in wanted]
        return (None, None, *gradients)


class _Gate:
    """Closed as a context; open before and after."""

    def __init__(self) -> None:
        self.closed = False

    def __enter__(self) -> None:
        self.closed = True

    def __exit__(self, *_: object) -> None:
        self.closed = False


class _Gated(torch.autograd.Function):
    """The same tensor, whose gradient goes no further while the gate is closed.

    So the gradient of a solve stops at its start, like that of any operation, and that of this
    gradient goes on.
    """

    @staticmethod
    def forward(ctx: Any, gate: _Gate, tensor: Tensor) -> Tensor:
        ctx.gate = gate
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        return None, None if ctx.gate.closed else cotangents[0]


def _gated(gate: _Gate, tensor: Tensor) -> Tensor:
    found: Tensor = _Gated.apply(gate, tensor)  # type: ignore[no-untyped-call]
    return found


def for_transforms(adjoint: Adjoint) -> Adjoint:
    """The adjoint; under `torch.func`'s transforms and forward-mode differentiation `Direct`."""
    transformed = torch._C._functorch.peek_interpreter_stack() is not None
    return Direct() if transformed or forward_ad._current_level >= 0 else adjoint
