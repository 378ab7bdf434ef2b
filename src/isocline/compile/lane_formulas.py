"""What is compiled of per-sample stepping: a whole round, and its pull-back, as pure functions.

A round is more than its steps here: their lengths, the verdict on them and where each lane goes on
are one graph, which a compiler fuses; the host reads four numbers of it. They compute what
`integrate/attempts.py`, `integrate/judging.py`, `solvers/lanes.py` and `adjoints/lane_replay.py`
compute, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..controllers import Controller
from ..controllers.lanes import LaneControl, lane_control
from ..integrate.attempts import STRETCH
from ..samples import SampleField, matrix_of
from ..solvers.explicit import hairers_two
from ..solvers.tableau import Tableau
from ..state import Packing, State
from .formulas import pulled_to, weighted
from .passes import Passes
from .tracing import standing_in

__all__ = ["LaneFormula", "LaneRequest", "Marks"]


class Marks(NamedTuple):
    """What the host reads of a round.

    Attributes:
        worst: the largest ratio of error to tolerance; NaN if one is.
        rejected: how many steps do not count.
        arrived: how many lanes are at the end of their solve, those at rest included.
        shortest: the shortest next step.
        due: how many lanes have passed an output time.
    """

    worst: float
    rejected: float
    arrived: float
    shortest: float
    due: float


class LaneRequest(NamedTuple):
    """What is asked of a program of rounds besides the field and its tensors.

    Attributes:
        tableau: the method.
        controller: chooses the steps; its numbers are constants of the graph.
        error_order: of the method's error estimate.
        vectors: whether the tolerances are matrices.
        stages: whether slopes are wanted, for output between the ends of steps.
        stops: whether lanes stop on their way.
        dues: whether there are output times.
        signed: whether some lanes go backward in time.
        passes: rewritings of the graph.
    """

    tableau: Tableau
    controller: Controller
    error_order: int
    vectors: bool
    stages: bool
    stops: bool
    dues: bool
    signed: bool
    passes: Passes

    @property
    def adaptive(self) -> bool:
        """Whether an error ratio is wanted."""
        return self.controller.adaptive

    def control(self) -> LaneControl:
        """The controller for many lanes."""
        return lane_control(self.controller, self.error_order)

    def matches(self, other: Any) -> bool:
        """Whether both ask for the same."""
        if not isinstance(other, LaneRequest):
            return False
        return self.tableau is other.tableau and self[1:] == other[1:]


class _Inputs(NamedTuple):
    clock: Tensor
    own: list[Tensor]
    signs: Tensor | None
    rtol: Tensor
    atol: Tensor
    held: list[Tensor]
    totals: list[Tensor]


@dataclass(frozen=True, slots=True)
class LaneFormula:
    """Rounds of one method over one field, as functions to be traced.

    Every one begins with the tolerances, two doubles on the host. Then come its own inputs, all of
    them with an axis of lanes; then, as the request says, the lanes' signs of time and matrices
    of tolerances; then what the field holds, of which some have the axis of lanes too.

    Attributes:
        request: what is to be computed.
        packing: layout of the state.
        func, args: the user's field.
        tensors: what it holds, to be replaced by inputs.
    """

    request: LaneRequest
    packing: Packing
    func: Callable[..., State]
    args: tuple[Any, ...]
    tensors: Sequence[Tensor]

    def step(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """A round of steps, and where the lanes go on.

        (tolerances; t, t1, length to try, y, how many steps counted so far, the controller's
        memory, slope at the start if the method hands it on, next stop and next output time if
        there are any) -> `Marks`, t, y, length, number and memory to go on with, the slope
        likewise, ratios, which steps count, all slopes times the lengths of their steps, shape
        (stages, lanes, width).
        """
        request, fsal = self.request, self.request.tableau.fsal
        control = request.control()
        memories, flags = self.memories, (fsal, request.stops, request.dues)
        given = self._split(inputs, 5 + memories + sum(flags))
        (t, t1, h, y, taken), rest = given.own[:5], given.own[5 + memories :]
        first, stop, due = (rest.pop(0) if there else None for there in flags)
        target = t1 if stop is None else stop
        with torch.no_grad(), standing_in(self.tensors, given.held):
            h = h.clamp(request.controller.min_step, request.controller.max_step)
            t_next = t + h
            reaches = t_next + STRETCH * h >= target
            t_next = torch.where(reaches, target, t_next)
            y1, slopes = self._stages(given, t, t_next, y, first, request.tableau.stages)
            ratio = self._ratios(given, t_next - t, y, y1, slopes)
            accept = ratio <= 1.0
            control.recall(given.own[5 : 5 + memories])
            tried = torch.where(reaches & ~accept, t_next - t, h)
            h_next = control.mixed(tried, ratio, accept)
            if request.stops:
                short = reaches & (t_next - t < h) & accept
                h_next = torch.where(short, torch.maximum(h, h_next), h_next)
            arrived = (accept & (t_next == t1)).sum()
            passed = arrived * 0 if due is None else (accept & (due <= t_next)).sum()
            marks = (ratio.amax(), (~accept).sum(), arrived, h_next.amin(), passed)
            rows = accept.unsqueeze(1)
            found = [
                torch.stack([mark.double() for mark in marks]),
                torch.where(accept, t_next, t),
                torch.where(rows, y1, y).contiguous(),
                h_next,
                taken + accept,
                *control.memory(ratio),
            ]
            if first is not None:
                found.append(torch.where(rows, slopes[-1], first).contiguous())
            found += [ratio, accept]
            if request.stages:
                length = (t_next - t).to(self.packing.time_dtype).unsqueeze(1)
                found.append(torch.stack([slope * length for slope in slopes]))
            return tuple(found)

    def slope(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """(tolerances; t, y) -> the field there."""
        given = self._split(inputs, 2)
        t, y = given.own
        with torch.no_grad(), standing_in(self.tensors, given.held):
            return (self._field(given)(t.to(self.packing.time_dtype), y),)

    def pull(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The pull-back of a round: steps of no length hand their cotangents on as they are.

        (tolerances; t, t_next, y, cotangent of the ends, those of all slopes times lengths if they
        are wanted, shape (stages * lanes, width)) -> cotangent of y. The gradients of the tensors
        that require grad are added to the last inputs.
        """
        wants = self.request.stages
        given = self._split(inputs, 4 + int(wants))
        t, t_next, y, cotangent = given.own[:4]
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            held = [
                fake.detach().requires_grad_(tensor.requires_grad)
                for fake, tensor in zip(given.held, self.tensors, strict=True)
            ]
            table = self.request.tableau
            count = table.stages if wants else table.needed
            with standing_in(self.tensors, held):
                y1, slopes = self._stages(given, t, t_next, leaf, None, count)
            pairs = [(y1, cotangent)]
            if wants:
                length = (t_next - t).to(self.packing.time_dtype).unsqueeze(1)
                of_slopes = given.own[4].view(count, *y.shape).unbind()
                pairs += zip([slope * length for slope in slopes], of_slopes, strict=True)
            wanted = [tensor for tensor in held if tensor.requires_grad]
            return pulled_to(pairs, [leaf], wanted, given.totals)

    @property
    def memories(self) -> int:
        """How many tensors the controller remembers."""
        return len(self.request.control().memory(torch.empty(0)))

    # --- parts ------------------------------------------------------------------------------

    def _split(self, inputs: Sequence[Tensor], own: int) -> _Inputs:
        """The inputs of a formula that has `own` ones besides the common ones."""
        clock, rest = inputs[0], list(inputs[1:])
        mine, rest = rest[:own], rest[own:]
        signs = rest.pop(0) if self.request.signed else None
        if self.request.vectors:
            rtol, atol = rest.pop(0), rest.pop(0)
        else:
            rtol, atol = (clock[i].to(self.packing.time_dtype) for i in (0, 1))
        count = len(self.tensors)
        return _Inputs(clock, mine, signs, rtol, atol, rest[:count], rest[count:])

    def _field(self, given: _Inputs) -> Callable[[Tensor, Tensor], Tensor]:
        """The field, from times and states to slopes, shape (lanes, width)."""
        sampled = SampleField(self.func, self.packing, self.args)

        def field(t: Tensor, y: Tensor) -> Tensor:
            rows: Any = y.shape[0]
            signs = given.signs
            time = t if signs is None else t * signs.to(t.dtype)
            derivative = self.func(time, sampled.unpack(y), *self.args)
            shapes: Any = tuple((rows, *shape[1:]) for shape in self.packing.shapes)
            replace(self.packing, shapes=shapes, batch=rows).check_derivative(derivative)
            slope = matrix_of(self.packing, derivative)
            return slope if signs is None else slope * signs.to(slope.dtype).unsqueeze(1)

        return field

    def _stages(
        self,
        given: _Inputs,
        t: Tensor,
        t_next: Tensor,
        y: Tensor,
        first: Tensor | None,
        count: int,
    ) -> tuple[Tensor, list[Tensor]]:
        """Ends of steps, and the first `count` slopes."""
        table, field, dtype = self.request.tableau, self._field(given), self.packing.time_dtype
        length = t_next - t
        h = length.to(dtype).unsqueeze(1)
        slopes, stage = [field(t.to(dtype), y) if first is None else first], y
        for row, node in zip(table.a[1:count], table.c[1:count], strict=True):
            stage = y + h * weighted(slopes, row)
            time = t_next if node == 1 else t + float(node) * length if node else t
            slopes.append(field(time.to(dtype), stage))
        if table.fsal and count == table.stages:
            return stage, slopes
        return y + h * weighted(slopes, table.b), slopes

    def _ratios(
        self, given: _Inputs, length: Tensor, y: Tensor, y1: Tensor, slopes: list[Tensor]
    ) -> Tensor:
        """Error over tolerance of each lane; of a constant step 0, or NaN if its end is lost."""
        if not self.request.adaptive:
            return torch.where(y1.isfinite().all(1), 0.0, math.nan).double()
        floor = torch.finfo(y.dtype).tiny ** 0.5
        scale = given.atol.clamp(min=floor) + given.rtol * torch.maximum(y.abs(), y1.abs())
        h = length.to(y.dtype).unsqueeze(1)
        errors = [h * weighted(slopes, row) / scale for row in self.request.tableau.error]
        norms = [error.square().mean(1).sqrt() for error in errors]
        return (norms[0] if len(norms) == 1 else hairers_two(*norms)).double()
