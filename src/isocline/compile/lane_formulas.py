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

__all__ = ["NARROW", "LaneFormula", "LaneRequest", "Marks"]

NARROW = 4
"""Numbers of a state up to which it is taken apart."""

Parts = list[Tensor]
"""A state's columns, each of shape (lanes,); or the matrix alone."""


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

        (tolerances; t, t1, length to try, y, in how many rounds a step counted and in how many
        the lane was done before, the controller's memory, slope at the start if the method hands
        it on, next stop and next output time if there are any) -> `Marks`, t, y, length, numbers
        and memory to go on with, the slope likewise, ratios, which steps count, all slopes times
        the lengths of their steps, shape (stages, lanes * width).
        """
        request, fsal = self.request, self.request.tableau.fsal
        control = request.control()
        memories, flags = self.memories, (fsal, request.stops, request.dues)
        given = self._split(inputs, 6 + memories + sum(flags))
        (t, t1, h, y, taken, idle), rest = given.own[:6], given.own[6 + memories :]
        first, stop, due = (rest.pop(0) if there else None for there in flags)
        target = t1 if stop is None else stop
        with torch.no_grad(), standing_in(self.tensors, given.held):
            h = h.clamp(request.controller.min_step, request.controller.max_step)
            t_next = t + h
            reaches = t_next + STRETCH * h >= target
            t_next = torch.where(reaches, target, t_next)
            length, before = t_next - t, self._parted(y)
            known = None if first is None else self._parted(first)
            y1, slopes = self._stages(given, t, t_next, before, known, request.tableau.stages)
            ratio = self._ratios(given, length, before, y1, slopes)
            accept = ratio <= 1.0
            control.recall(given.own[6 : 6 + memories])
            tried = torch.where(reaches & ~accept, length, h)
            h_next = control.mixed(tried, ratio, accept)
            if request.stops:
                short = reaches & (length < h) & accept
                h_next = torch.where(short, torch.maximum(h, h_next), h_next)
            arrived = (accept & (t_next == t1)).sum()
            passed = arrived * 0 if due is None else (accept & (due <= t_next)).sum()
            marks = (ratio.amax(), (~accept).sum(), arrived, h_next.amin(), passed)
            found = [
                torch.stack([mark.double() for mark in marks]),
                torch.where(accept, t_next, t),
                self._chosen(accept, y1, before),
                h_next,
                taken + accept,
                idle + (t == t1),
                *control.memory(ratio),
            ]
            if known is not None:
                found.append(self._chosen(accept, slopes[-1], known))
            found += [ratio, accept]
            if request.stages:
                found.append(torch.stack(self._times_length(slopes, length)))
            return tuple(found)

    def slope(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """(tolerances; t, y) -> the field there."""
        given = self._split(inputs, 2)
        t, y = given.own[0], self._matrix(self._parted(given.own[1]))
        with torch.no_grad(), standing_in(self.tensors, given.held):
            return (self._field(given)(t.to(self.packing.time_dtype), y),)

    def pull(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The pull-back of a round: steps of no length hand their cotangents on as they are.

        (tolerances; t, t_next, y, cotangent of the ends, those of all slopes times lengths one
        after another if they are wanted) -> cotangent of y. The gradients of the tensors that
        require grad are added to the last inputs.
        """
        wants = self.request.stages
        given = self._split(inputs, 4 + int(wants))
        t, t_next, y, cotangent = given.own[:4]
        with torch.enable_grad():
            leaves = [part.detach().requires_grad_() for part in self._parted(y)]
            held = [
                fake.detach().requires_grad_(tensor.requires_grad)
                for fake, tensor in zip(given.held, self.tensors, strict=True)
            ]
            table = self.request.tableau
            count = table.stages if wants else table.needed
            with standing_in(self.tensors, held):
                y1, slopes = self._stages(given, t, t_next, leaves, None, count)
            pairs = list(zip(y1, self._parted(cotangent), strict=True))
            if wants:
                of_slopes = given.own[4].view(count, -1).unbind()
                found = self._times_length(slopes, t_next - t)
                pairs += zip(found, of_slopes, strict=True)
            wanted = [tensor for tensor in held if tensor.requires_grad]
            return (self._joined(pulled_to(pairs, leaves, wanted, given.totals)),)

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

    # A state of few numbers is taken apart into columns, one for each number, shape (lanes,): the
    # compiler then has lanes side by side in its vectors, and all stages in one loop over them. So
    # it comes and goes too, the columns one after another.

    @property
    def width(self) -> int:
        """Numbers of a state."""
        return sum(shape[1:].numel() for shape in self.packing.shapes)

    @property
    def narrow(self) -> bool:
        """Whether states come and go in columns."""
        return self.width <= NARROW

    def _parted(self, carried: Tensor) -> Parts:
        """The parts of what lanes carry, as it is given."""
        return list(carried.view(self.width, -1).unbind()) if self.narrow else [carried]

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        """The way back."""
        return torch.stack(list(parts)).view(-1) if self.narrow else parts[0].contiguous()

    def _columns(self, matrix: Tensor) -> Parts:
        """The parts of a matrix."""
        return list(matrix.unbind(1)) if self.narrow else [matrix]

    def _matrix(self, parts: Parts) -> Tensor:
        """The way back."""
        return torch.stack(parts, 1) if self.narrow else parts[0]

    def _beside(self, lanes: Tensor) -> Tensor:
        """Numbers of lanes as they multiply parts."""
        return lanes if self.narrow else lanes.unsqueeze(1)

    def _chosen(self, accept: Tensor, new: Parts, old: Parts) -> Tensor:
        rows = self._beside(accept)
        return self._joined([torch.where(rows, x, y) for x, y in zip(new, old, strict=True)])

    def _times_length(self, slopes: Sequence[Parts], length: Tensor) -> list[Tensor]:
        h = self._beside(length.to(self.packing.time_dtype))
        return [self._joined([part * h for part in slope]).view(-1) for slope in slopes]

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
        y: Parts,
        first: Parts | None,
        count: int,
    ) -> tuple[Parts, list[Parts]]:
        """Ends of steps, and the first `count` slopes."""
        table, dtype = self.request.tableau, self.packing.time_dtype
        slope_at, length = self._field(given), t_next - t
        h = self._beside(length.to(dtype))

        def field(time: Tensor, state: Parts) -> Parts:
            return self._columns(slope_at(time.to(dtype), self._matrix(state)))

        def moved(row: Sequence[Any]) -> Parts:
            return [part + h * weighted(s, row) for part, *s in zip(y, *slopes, strict=True)]

        slopes, stage = [field(t, y) if first is None else first], y
        for row, node in zip(table.a[1:count], table.c[1:count], strict=True):
            stage = moved(row)
            time = t_next if node == 1 else t + float(node) * length if node else t
            slopes.append(field(time, stage))
        if table.fsal and count == table.stages:
            return stage, slopes
        return moved(table.b), slopes

    def _ratios(
        self, given: _Inputs, length: Tensor, y: Parts, y1: Parts, slopes: list[Parts]
    ) -> Tensor:
        """Error over tolerance of each lane; of a constant step 0, or NaN if its end is lost."""
        if not self.request.adaptive:
            finite = self._matrix(y1).isfinite().all(1)
            return torch.where(finite, 0.0, math.nan).double()
        rtol, atol = ([x] * len(y) if x.ndim == 0 else self._columns(x) for x in given[3:5])
        floor = torch.finfo(self.packing.dtype).tiny ** 0.5
        h = self._beside(length.to(self.packing.dtype))
        parts = zip(rtol, atol, y, y1, *slopes, strict=True)
        squares: list[list[Tensor]] = [[] for _ in self.request.tableau.error]
        for relative, absolute, start, end, *own in parts:
            scale = absolute.clamp(min=floor) + relative * torch.maximum(start.abs(), end.abs())
            for found, row in zip(squares, self.request.tableau.error, strict=True):
                found.append((h * weighted(own, row) / scale).square())
        norms = [self._mean(found).sqrt() for found in squares]
        return (norms[0] if len(norms) == 1 else hairers_two(*norms)).double()

    def _mean(self, parts: Parts) -> Tensor:
        """Of each lane's numbers."""
        if self.narrow:
            return sum(parts[1:], parts[0]) / len(parts)
        return parts[0].mean(1)
