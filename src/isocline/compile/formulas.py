"""What is compiled: a step, the start of a solve, and the pull-back of a step, as pure functions.

Each is a function of tensors alone, written for a compiler: the sums over stages are chains that
it fuses with what comes before and after. They compute what `solvers/explicit.py`, the loop's
error ratio, `controllers/initial_step.py` and `adjoints/replay.py` compute, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..solvers.tableau import Tableau
from ..state import Packing, State
from .tracing import standing_in

__all__ = ["Formula", "Layout", "pulled_to", "weighted"]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the inputs of a formula follow one another.

    Every formula begins with the clock, four doubles on the host (t, t_next, rtol, atol), and
    the packed state y. Then come its own inputs, then what all have in common.

    Attributes:
        dynamic: whether a vector with one element a sample follows, from which the graph knows
            the size of the batch.
        vectors: whether the tolerances follow, as packed vectors in the place of the clock's.
        tensors: number of tensors that the field holds.
    """

    dynamic: bool
    vectors: bool
    tensors: int

    def split(self, inputs: Sequence[Tensor], own: int) -> _Inputs:
        """The inputs of a formula that has `own` ones besides the common ones."""
        rest = list(inputs)
        clock, y = rest[:2]
        mine, rest = rest[2 : 2 + own], rest[2 + own :]
        rows = rest.pop(0).shape[0] if self.dynamic else None
        if self.vectors:
            rtol, atol = rest.pop(0), rest.pop(0)
        else:
            rtol, atol = clock[2].to(y.dtype), clock[3].to(y.dtype)
        held, totals = rest[: self.tensors], rest[self.tensors :]
        return _Inputs(clock, y, mine, rows, rtol, atol, held, totals)


@dataclass(frozen=True, slots=True)
class _Inputs:
    clock: Tensor
    y: Tensor
    own: list[Tensor]
    rows: Any
    rtol: Tensor
    atol: Tensor
    held: list[Tensor]
    totals: list[Tensor]


@dataclass(frozen=True, slots=True)
class Formula:
    """One method over one field, as functions to be traced.

    Attributes:
        tableau: coefficients.
        packing: layout of the state; its batch is that of the example.
        func, args: the user's field.
        tensors: what it holds, to be replaced by inputs.
        layout: of the inputs.
        average: whether the norm is the average over the batch ("rms"), or each sample's.
        adaptive: whether the controller wants an error ratio.
        stages: whether the slopes are wanted, for output between steps.
    """

    tableau: Tableau
    packing: Packing
    func: Callable[..., State]
    args: tuple[Any, ...]
    tensors: Sequence[Tensor]
    layout: Layout
    average: bool
    adaptive: bool
    stages: bool

    def step(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """(clock, y, slope at the start if the method knows it) -> y1, ratio, last slope, slopes.

        The ratio is a double: error over tolerance, or without a controller that wants it 0 or,
        where y1 is not finite, NaN. Slopes are those from the second on that are not the last.
        """
        given = self.layout.split(inputs, int(self.tableau.fsal))
        field = self._field(given)
        with torch.no_grad(), standing_in(self.tensors, given.held):
            first = given.own[0] if given.own else field(given.clock[0], given.y)
            y1, slopes = self._stages(field, given, first, self.tableau.stages)
            return self._results(given, y1, slopes)

    def slope(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """(clock, y) -> slope at the start."""
        given = self.layout.split(inputs, 0)
        with torch.no_grad(), standing_in(self.tensors, given.held):
            return (self._field(given)(given.clock[0], given.y),)

    def start(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """(clock, y) -> slope at the start, length of the first step (NaN: not finite)."""
        given = self.layout.split(inputs, 0)
        field, y = self._field(given), given.y
        t0, t1 = given.clock[0], given.clock[1]
        with torch.no_grad(), standing_in(self.tensors, given.held):
            slope = field(t0, y)
            scale = self._scale(given, y.abs())
            d0, d1 = (self._norm(given, [v / scale]).double() for v in (y, slope))
            span = (t1 - t0).abs()
            sign = torch.where(t1 >= t0, 1.0, -1.0).double()
            h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1).minimum(span)
            probe = torch.where(h0 < span, t0 + sign * h0, t1)
            moved = y + slope * (sign * h0).to(y.dtype)
            d2 = self._norm(given, [(field(probe, moved) - slope) / scale]).double() / h0
            steepest = torch.maximum(d1, d2)
            error_order = (self.tableau.error_order or self.tableau.order) + 1
            flat = (h0 * 1e-3).clamp(min=1e-6)
            h1 = torch.where(steepest <= 1e-15, flat, (0.01 / steepest) ** (1.0 / error_order))
            found = torch.where(
                steepest.isfinite(), (100 * h0).minimum(h1).minimum(span), h0 * 1e-3
            )
            finite = slope.isfinite().all()
            lost = torch.where(finite, 1e-6 * span, torch.full_like(span, torch.nan))
            return slope, torch.where((d0 + d1).isfinite(), found, lost)

    def pull(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """(clock, y, cotangent of y1, those of the slopes if wanted) -> cotangent of y.

        The gradients of the tensors that require grad are added to the last inputs.
        """
        given = self.layout.split(inputs, 1 + self.stages)
        with torch.enable_grad():
            leaves = self._leaves(given)
            field = self._field(leaves)
            with standing_in(self.tensors, leaves.held):
                count = self.tableau.stages if self.stages else self.tableau.needed
                first = field(leaves.clock[0], leaves.y)
                y1, slopes = self._stages(field, leaves, first, count)
            of_slopes = given.own[1].view(len(slopes), -1).unbind() if self.stages else ()
            pairs = [(y1, given.own[0]), *zip(slopes, of_slopes, strict=False)]
            return self._pulled(given, pairs, leaves, [leaves.y])

    def kept(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """A step and its pull-back in one, to be split in two: see `splitting.py`.

        (clock, y, slope at the start if the method knows it, cotangent of y1, those of the last
        `links` slopes) -> what `step` gives, cotangent of y, that of the slope at the start.
        """
        table = self.tableau
        given = self.layout.split(inputs, 1 + int(table.fsal) + bool(self.links))
        with torch.enable_grad():
            leaves = self._leaves(given)
            field = self._field(leaves)
            known = [given.own[0].detach().requires_grad_()] if table.fsal else []
            with standing_in(self.tensors, leaves.held):
                first = known[0] if known else field(leaves.clock[0], leaves.y)
                y1, slopes = self._stages(field, leaves, first, table.stages)
            results = self._results(given, y1.detach(), [slope.detach() for slope in slopes])
            cotangents = given.own[len(known) :]
            linked = slopes[len(slopes) - self.links :]
            of_slopes = cotangents[1].view(self.links, -1).unbind() if self.links else ()
            pairs = [(y1, cotangents[0]), *zip(linked, of_slopes, strict=True)]
            return (*results, *self._pulled(given, pairs, leaves, [leaves.y, *known]))

    def pull_start(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """(clock, y, cotangent of the slope at the start) -> cotangent of y."""
        given = self.layout.split(inputs, 1)
        with torch.enable_grad():
            leaves = self._leaves(given)
            with standing_in(self.tensors, leaves.held):
                slope = self._field(leaves)(leaves.clock[0], leaves.y)
            return self._pulled(given, [(slope, given.own[0])], leaves, [leaves.y])

    @property
    def links(self) -> int:
        """How many of the last slopes of a kept step have cotangents.

        All where they are wanted; else the last if the next step begins with it.
        """
        return self.tableau.stages if self.stages else int(self.tableau.fsal)

    # --- gradients --------------------------------------------------------------------------

    def _leaves(self, given: _Inputs) -> _Inputs:
        """The inputs with leaves in the place of what gradients go to."""
        held = [
            fake.detach().requires_grad_(tensor.requires_grad)
            for fake, tensor in zip(given.held, self.tensors, strict=True)
        ]
        return replace(given, y=given.y.detach().requires_grad_(), held=held)

    def _pulled(
        self,
        given: _Inputs,
        pairs: Sequence[tuple[Tensor, Tensor]],
        leaves: _Inputs,
        starts: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        wanted = [tensor for tensor in leaves.held if tensor.requires_grad]
        return pulled_to(pairs, starts, wanted, given.totals)

    # --- parts ------------------------------------------------------------------------------

    def _field(self, given: _Inputs) -> Callable[[Tensor, Tensor], Tensor]:
        """The packed field, at times in double precision."""
        packing = self._packing(given.rows)

        def field(t: Tensor, y: Tensor) -> Tensor:
            time = t.to(packing.time_dtype)
            derivative = self.func(time, packing.unpack(y), *self.args)
            packing.check_derivative(derivative)
            return packing.pack(derivative)

        return field

    def _packing(self, rows: Any) -> Packing:
        """The packing for a batch of `rows` samples, a symbol."""
        packing = self.packing
        if rows is None:
            return packing
        shapes = tuple((rows, *shape[1:]) for shape in packing.shapes)
        sizes = tuple(rows * math.prod(shape[1:]) for shape in packing.shapes)
        symbolic: Any = shapes  # torch.Size cannot hold symbols
        return replace(packing, shapes=symbolic, sizes=sizes, batch=rows)

    @property
    def _elements(self) -> int:
        """Elements of one sample."""
        return sum(math.prod(shape[1:]) for shape in self.packing.shapes)

    def _stages(
        self,
        field: Callable[[Tensor, Tensor], Tensor],
        given: _Inputs,
        first: Tensor,
        count: int,
    ) -> tuple[Tensor, list[Tensor]]:
        """y1 and the first `count` slopes."""
        table, clock, y = self.tableau, given.clock, given.y
        t, t_next = clock[0], clock[1]
        length = t_next - t
        h = length.to(y.dtype)
        slopes, stage = [first], y
        for row, node in zip(table.a[1:count], table.c[1:count], strict=True):
            stage = y + h * weighted(slopes, row)
            time = t_next if node == 1 else t + float(node) * length if node else t
            slopes.append(field(time, stage))
        if table.fsal and count == table.stages:
            return stage, slopes
        return y + h * weighted(slopes, table.b), slopes

    def _results(self, given: _Inputs, y1: Tensor, slopes: list[Tensor]) -> tuple[Tensor, ...]:
        """What a step gives."""
        ratio = self._ratio(given, y1, slopes)
        if self.tableau.fsal:
            wanted = [slopes[-1], *(slopes[1:-1] if self.stages else ())]
        else:
            wanted = slopes if self.stages else []
        return (y1, ratio, *wanted)

    def _ratio(self, given: _Inputs, y1: Tensor, slopes: list[Tensor]) -> Tensor:
        if not self.adaptive:
            return (y1 * 0.0).sum().double()
        h = (given.clock[1] - given.clock[0]).to(y1.dtype)
        scale = self._scale(given, torch.maximum(given.y.abs(), y1.abs()))
        errors = [h * weighted(slopes, row) / scale for row in self.tableau.error]
        return self._norm(given, errors).double()

    def _scale(self, given: _Inputs, size: Tensor) -> Tensor:
        floor = torch.finfo(size.dtype).tiny ** 0.5
        return given.atol.clamp(min=floor) + given.rtol * size

    def _norm(self, given: _Inputs, errors: list[Tensor]) -> Tensor:
        """The norm of one error, or of two by Hairer's rule, shape ()."""
        packing = self._packing(given.rows)
        rows: Any = packing.batch
        whole = self.average or packing.batch is None or (given.rows is None and packing.batch == 1)
        norms = []
        for error in errors:
            if whole:
                norms.append(error.square().mean().sqrt())
                continue
            pieces = error.split(packing.sizes) if len(packing.sizes) > 1 else [error]
            sums = [piece.view(rows, -1).square().sum(1) for piece in pieces]
            norms.append((sum(sums[1:], sums[0]) / self._elements).sqrt())
        if len(norms) == 2:
            top, bottom = norms[0].square(), (norms[0].square() + 0.01 * norms[1].square()).sqrt()
            norms = [torch.where(bottom > 0, top / bottom, bottom)]
        return norms[0] if whole else norms[0].amax()


def weighted(slopes: Sequence[Tensor], row: Sequence[Any]) -> Tensor:
    """The sum of slopes times coefficients, zeros left out."""
    total: Tensor | None = None
    for slope, weight in zip(slopes, row, strict=False):
        if weight:
            term = slope * float(weight)
            total = term if total is None else total + term
    return torch.zeros_like(slopes[0]) if total is None else total


def pulled_to(
    pairs: Sequence[tuple[Tensor, Tensor]],
    starts: Sequence[Tensor],
    wanted: Sequence[Tensor],
    totals: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Cotangents of `starts`; the gradients of `wanted` are added to the totals.

    Args:
        pairs: what is pulled back, each with its cotangent.
        starts: leaves.
        wanted: leaves with a total each.
        totals: buffers to add to.
    """
    pairs = [pair for pair in pairs if pair[0].requires_grad]
    if not pairs:  # a slope that depends on nothing
        return tuple(map(torch.zeros_like, starts))
    found: tuple[Tensor | None, ...] = torch.autograd.grad(
        [output for output, _ in pairs],
        [*starts, *wanted],
        [weight for _, weight in pairs],
        allow_unused=True,
    )
    count = len(starts)
    for total, gradient in zip(totals, found[count:], strict=True):
        if gradient is not None:
            total.add_(gradient)
    return tuple(
        torch.zeros_like(start) if gradient is None else gradient
        for start, gradient in zip(starts, found[:count], strict=True)
    )
