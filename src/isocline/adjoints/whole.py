"""The walk back over steps that pull cotangents back themselves, as compiled steps do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..integrate import Reach
from ..solvers.base import DensePiece, Memory, Step
from ..solvers.complete import CompleteSolver, CompleteStepper
from .base import ParameterGradients, pulled_back
from .starts import Held

if TYPE_CHECKING:
    from .replay import Replay

__all__ = ["walk_whole"]


def walk_whole(
    replay: Replay,
    solver: CompleteSolver,
    inputs: Sequence[Tensor],
    totals: ParameterGradients,
    cotangents: Sequence[Tensor],
) -> Tensor:
    """Back over all steps: the gradient of the start, and that of `inputs` into `totals`.

    Args:
        replay: recorded the steps.
        solver: took them.
        inputs: those that the solver depends on, in its own order.
        totals: for the gradients of the inputs.
        cotangents: of the answer.

    Raises:
        GradientError: if a tensor that the field uses was changed since.
    """
    field = replay.problem.field
    solver.demand_unchanged(replay.versions)
    as_rows = torch.contiguous_format
    buffers = [torch.zeros_like(tensor, memory_format=as_rows) for tensor in inputs]
    totals.totals = list(buffers)
    if replay.whole is not None and not replay.whole.forgotten:
        return replay.whole.pull(cotangents[0][replay.initial_rows :], buffers)
    stepper = solver.bind(field, field.packing)
    end = torch.zeros_like(replay.problem.y0)
    starts = replay.starts.backwards(replay.steps, stepper)
    for index, held in zip(range(len(replay.steps) - 1, -1, -1), starts, strict=True):
        taken = replay.steps[index]
        of_start, of_slopes = None, None
        if solver.has_slopes:
            end, of_start, of_slopes = _outputs(replay, stepper, index, held, end, cotangents)
        elif taken.first_row < taken.last_row:  # rows between steps need slopes
            end = end + cotangents[0][taken.first_row : taken.last_row].sum(0)
        end = stepper.pull(taken.reach.t, taken.reach.t_next, held.y, end, of_slopes, buffers)
        if of_start is not None:
            end = end + of_start
    return end


@dataclass(slots=True)
class _Outline(Step):
    """A step of which the ends and slopes are leaves: outputs are linear in them."""

    y0: Tensor
    slopes: Tensor
    piece: DensePiece

    @classmethod
    def of(cls, stepper: CompleteStepper, reach: Reach, y: Tensor) -> _Outline:
        """The outline of a step from `y`."""
        y0, y1 = (y.detach().requires_grad_() for _ in range(2))
        piece = stepper.outline(reach.t, reach.t_next, y0)
        slopes = piece.slopes.requires_grad_()
        return cls(y1, (), Memory(), Memory(), y0, slopes, piece)

    def dense(self) -> DensePiece:
        """The interpolant over the leaves."""
        return self.piece


def _outputs(
    replay: Replay,
    stepper: CompleteStepper,
    index: int,
    held: Held,
    end: Tensor,
    cotangents: Sequence[Tensor],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Cotangents of a step's end, start and slopes, with those of its output between."""
    with torch.enable_grad():
        step = _Outline.of(stepper, replay.steps[index].reach, held.y)
        rows, weights = replay.given(index, step.y0, step, cotangents)
    if not rows:
        return end, None, None
    leaves = [step.y1, step.y0, step.slopes]
    of_end, of_start, of_slopes = pulled_back(rows, weights, leaves)
    return end if of_end is None else end + of_end, of_start, of_slopes
