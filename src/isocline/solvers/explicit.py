"""Explicit Runge-Kutta methods: every table of coefficients becomes a solver here.

A sum over stages is one matrix-vector product, at a third of the cost of a chain of additions on
a small state. Without a graph the stages lie in one buffer that lasts for the solve; with one they
are stacked anew for each sum, since neither autograd nor the transforms of `torch.func` can follow
writes into a shared buffer. Both give the same bits, so a replayed step lands where the first one
did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ..state import Packing
from ..transforms import active
from .base import DensePiece, Field, Memory, Step, Time
from .tableau import CENTRE, Tableau, centred

__all__ = [
    "Coefficients",
    "ExplicitRungeKutta",
    "ExplicitStepper",
    "StageTimes",
    "coefficients",
    "explicit",
    "hairers_two",
]


@dataclass(frozen=True, slots=True)
class ExplicitRungeKutta:
    """An explicit Runge-Kutta method. The subclass made from each table names it."""

    tableau: ClassVar[Tableau]

    @property
    def name(self) -> str:
        """Name of the table."""
        return self.tableau.name

    @property
    def reference(self) -> str:
        """Source of the table."""
        return self.tableau.reference

    @property
    def order(self) -> int:
        """Order of the solution."""
        return self.tableau.order

    @property
    def dense_order(self) -> int:
        """q, where the interpolant of one step errs by O(h^(q + 1))."""
        return self.tableau.dense_order

    @property
    def error_order(self) -> int:
        """k, where the error estimate of one step is O(h^k); 0 for methods without one."""
        embedded = self.tableau.error_order
        return 0 if embedded is None else embedded + 1

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error."""
        return self.tableau.adaptive

    @property
    def evaluations_per_step(self) -> int:
        """Evaluations of the field that an accepted step costs."""
        return self.tableau.evaluations_per_step

    def bind(self, field: Field, packing: Packing) -> ExplicitStepper:
        """The method bound to the packed `field`."""
        return ExplicitStepper(self.tableau, field, packing)


def explicit(tableau: Tableau) -> type[ExplicitRungeKutta]:
    """The solver class of a table of coefficients."""
    doc = f"{tableau.name}, order {tableau.order}, {tableau.stages} stages. {tableau.reference}"
    body = {
        "tableau": tableau,
        "__doc__": doc,
        "__slots__": (),
        "__module__": "isocline.solvers",
    }
    return type(tableau.name, (ExplicitRungeKutta,), body)


def hairers_two(fifth: Tensor, third: Tensor) -> Tensor:
    """One number from DOP853's two estimates: Hairer's e5^2 / sqrt(e5^2 + e3^2 / 100)."""
    square = fifth.square()
    bottom = (square + 0.01 * third.square()).sqrt()
    return torch.where(bottom > 0, square / bottom, bottom)


class Coefficients:
    """A table as the steps need it, in one dtype on one device; made once per process.

    Attributes:
        rows: rows of a, for main and extra stages.
        nodes: c, likewise.
        at_end: which stages are f(t_next, y1): what they find serves the next step as its first.
        end: the first of those, or None.
        needed: number of stages that y1 needs.
        flat: all rows, then b, then the error estimates, one after another.
        lengths: how many entries each row has.
        solution, errors: which rows hold b and the error estimates.
        weights: coefficients of the interpolant about `CENTRE`, (stages, degree), float64 on the
            host.
    """

    def __init__(self, tableau: Tableau, dtype: torch.dtype, device: torch.device) -> None:
        self.rows = [*tableau.a, *tableau.extra_a]
        self.nodes = [float(c) for c in (*tableau.c, *tableau.extra_c)]
        b = tuple(tableau.b)
        self.at_end = [
            node == 1.0 and tuple(row) == b[: len(row)] and not any(b[len(row) :])
            for row, node in zip(self.rows, self.nodes, strict=True)
        ]
        self.end = self.at_end.index(True) if any(self.at_end) else None
        self.needed = tableau.needed
        table = [*self.rows, b[: self.needed], *tableau.error]
        self.lengths = [len(row) for row in table]
        entries = [float(x) for row in table for x in row]
        self.flat = torch.tensor(entries, dtype=torch.float64).to(device=device, dtype=dtype)
        self.solution = len(self.rows)
        self.errors = range(self.solution + 1, len(table))
        rows = [centred(row) for row in tableau.interpolant]
        self.weights = torch.tensor([[float(x) for x in row] for row in rows], dtype=torch.float64)


_KNOWN: dict[tuple[int, torch.dtype, torch.device], tuple[Tableau, Coefficients]] = {}
"""Coefficients by table, dtype and device. A table is kept with them, so its id stays its own."""


def coefficients(tableau: Tableau, dtype: torch.dtype, device: torch.device) -> Coefficients:
    """A table as the steps need it, made once in a process."""
    key = (id(tableau), dtype, device)
    if key not in _KNOWN:
        with torch.inference_mode(False):  # what is kept must serve solves outside of it too
            _KNOWN[key] = (tableau, Coefficients(tableau, dtype, device))
    return _KNOWN[key][1]


class ExplicitStepper:
    """Takes steps of one table; nothing is carried from one to the next but a known slope."""

    def __init__(self, tableau: Tableau, field: Field, packing: Packing) -> None:
        self.field = field
        self.tableau = tableau
        self.table = coefficients(tableau, packing.dtype, packing.device)
        self.time_dtype = packing.time_dtype
        self.device = packing.device
        self.combine = hairers_two if len(tableau.error) > 1 else None
        self._scratch: _Scratch | None = None
        self._transformed = active()

    def init(self, t: Time, y: Tensor, f0: Tensor | None = None) -> Memory:
        """The field at (t, y)."""
        if f0 is not None:
            return Memory(f0)
        slope = self.field(self._times(t, t)[0], y)
        return Memory(slope if slope.requires_grad else slope.clone())

    def step(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """One step from (t, y) to t_next with its error estimate, if the method has one."""
        return self._step(t, t_next, y, memory, estimate=self.tableau.adaptive)

    def advance(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """The same `y1`, with no error estimate and so without a stage that serves it alone."""
        return self._step(t, t_next, y, memory, estimate=False)

    def _step(
        self, t: Time, t_next: Time, y: Tensor, memory: Memory | None, *, estimate: bool
    ) -> Step:
        field, table = self.field, self.table
        times = self._times(t, t_next)
        slopes, rows = self._begin(t, t_next, y)
        main = self.tableau.stages if estimate else table.needed
        first = None if memory is None else memory.slope
        if first is None:
            first = slopes.lasting(field(times[0], y))
        slopes.push(first)
        y1: Tensor | None = None
        last: Tensor | None = None
        for i in range(1, main):
            stage = torch.addmv(y, slopes.columns(i), rows[i])
            slope = field(times[i], stage)
            slopes.push(slope)
            if table.at_end[i]:
                y1, last = stage, slopes.lasting(slope)
        if y1 is None:
            y1 = torch.addmv(y, slopes.columns(table.needed), rows[table.solution])
        errors: tuple[Tensor, ...] = ()
        if estimate:
            columns = slopes.columns(main).detach()
            errors = tuple(torch.mv(columns, rows[row].detach()) for row in table.errors)
        return _ExplicitStep(
            y1, errors, Memory(last), Memory(first), self, t, t_next, y, slopes, rows, times
        )

    def _begin(self, t: Time, t_next: Time, y: Tensor) -> tuple[_Slopes, Sequence[Tensor]]:
        """Room for the stages, and every row of coefficients times the step."""
        if self._transformed or torch.is_grad_enabled():
            h, flat = t_next - t, self.table.flat
            scaled = flat * (h.to(flat) if isinstance(h, Tensor) else h)
            return _Stacked(), scaled.split_with_sizes(self.table.lengths)
        if self._scratch is None:
            self._scratch = _Scratch(self.table, y)
        return self._scratch.begin(float(t_next - t))

    def _times(self, t: Time, t_next: Time) -> StageTimes:
        return StageTimes(self.table.nodes, t, t_next, self.device, self.time_dtype)


@dataclass(slots=True)
class _ExplicitStep(Step):
    """A step that can still evaluate the stages which only dense output needs."""

    stepper: ExplicitStepper
    t: Time
    t_next: Time
    y0: Tensor
    slopes: _Slopes
    rows: Sequence[Tensor]
    times: StageTimes

    def dense(self) -> DensePiece:
        table, slopes = self.stepper.table, self.slopes
        while (i := slopes.count) < len(table.rows):
            at_end = table.at_end[i]
            stage = self.y1 if at_end else torch.addmv(self.y0, slopes.columns(i), self.rows[i])
            slope = self.stepper.field(self.times[i], stage)
            slopes.push(slope)
            if at_end:
                self.memory = Memory(slopes.lasting(slope))
        matrix, weights = slopes.matrix(), table.weights
        return DensePiece(self.t, self.t_next, self.y0, matrix, weights, float(CENTRE))


class StageTimes:
    """The stages' times as 0-d tensors, made when asked for; equal nodes share one."""

    __slots__ = ("_device", "_dtype", "_known", "_nodes", "_t", "_t_next")

    def __init__(
        self,
        nodes: Sequence[float],
        t: Time,
        t_next: Time,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._nodes, self._t, self._t_next = nodes, t, t_next
        self._device, self._dtype = device, dtype
        self._known: dict[float, Tensor] = {}

    def __getitem__(self, stage: int) -> Tensor:
        node = self._nodes[stage]
        known = self._known.get(node)
        if known is None:
            # The last stage is at t_next itself: t + h may differ from it in the last place.
            inside = self._t + node * (self._t_next - self._t) if node else self._t
            time = self._t_next if node == 1.0 else inside
            if isinstance(time, Tensor):
                known = time.to(self._device, self._dtype)
            else:
                known = torch.scalar_tensor(time, dtype=self._dtype, device=self._device)
            self._known[node] = known
        return known


class _Slopes(Protocol):
    """The stages of one step, as they come."""

    @property
    def count(self) -> int:
        """How many stages there are."""

    def push(self, slope: Tensor) -> None:
        """Add a stage, shape (N,)."""

    def columns(self, count: int) -> Tensor:
        """The first stages as columns, shape (N, count)."""

    def matrix(self) -> Tensor:
        """All stages as rows, shape (stages, N)."""

    def lasting(self, slope: Tensor) -> Tensor:
        """A stage safe to keep: a field may write all its answers into one buffer of its own."""


class _Stacked:
    """Stages that carry a graph: stacked for each sum."""

    def __init__(self) -> None:
        self._slopes: list[Tensor] = []

    @property
    def count(self) -> int:
        return len(self._slopes)

    def push(self, slope: Tensor) -> None:
        self._slopes.append(self.lasting(slope))

    def columns(self, count: int) -> Tensor:
        return torch.stack(self._slopes[:count]).t()

    def matrix(self) -> Tensor:
        return torch.stack(self._slopes)

    def lasting(self, slope: Tensor) -> Tensor:
        return slope if slope.requires_grad else slope.clone()


class _Scratch:
    """Stages without a graph, in a buffer made once per solve together with the views into it."""

    def __init__(self, table: Coefficients, like: Tensor) -> None:
        stages = len(table.rows)
        self.count = 0
        self._slopes = like.new_zeros(stages, like.numel())
        self._slots = self._slopes.unbind()
        self._columns = [self._slopes[:i].t() for i in range(stages + 1)]
        self._flat = table.flat
        self._scaled = torch.empty_like(table.flat)
        self._rows = self._scaled.split(table.lengths)

    def begin(self, h: float) -> tuple[_Scratch, Sequence[Tensor]]:
        """Ready for a step of length h; overwrites the stages of the step before."""
        self.count = 0
        torch.mul(self._flat, h, out=self._scaled)
        return self, self._rows

    def push(self, slope: Tensor) -> None:
        self._slots[self.count].copy_(slope)
        self.count += 1

    def columns(self, count: int) -> Tensor:
        return self._columns[count]

    def matrix(self) -> Tensor:
        return self._slopes

    def lasting(self, slope: Tensor) -> Tensor:
        return slope.clone()
