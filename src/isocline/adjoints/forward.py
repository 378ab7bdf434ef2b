"""Forward: derivatives by all inputs are carried along the solve, and none of it is remembered.

Each accepted step is taken once more with a graph, its derivative is multiplied to what was
carried to its start, and the graph is let go. What is kept is the derivative of the saved rows, so
memory does not grow with the number of steps, and the backward pass is one product. The work grows
with the number of inputs, or with the size of the state if that is smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..capture import Guard, capture, operations_so_far
from ..errors import GradientError, InputError
from ..integrate import Clock, Outcome, Reach, Saver, Start, integrate
from ..problem import Plan, Problem
from ..solution import Statistics
from ..solvers.base import DensePiece, Memory, Step
from ..transforms import active
from ..written import as_they_are
from .base import Inputs, Trajectory, once, stacked, tensors_of_times
from .direct import recorded
from .hooks import without_hooks
from .kept import as_leaves
from .sensitivity import Columns, Products, as_real

__all__ = ["Forward"]


@dataclass(frozen=True, slots=True)
class Forward:
    """Exact, for few inputs and many steps: memory flat in the number of steps.

    An input is a real number that a gradient is asked of: an entry of y0, a time, an entry of a
    parameter, of `args`, or of anything that the field closes over. Step lengths count as
    constants. Dense output has its gradient too; for that the derivative of each step is kept.

    Attributes:
        chunk: how many directions are differentiated at once: more take more memory.
        budget: bytes of derivatives to keep at most.

    Raises:
        InputError: unless both are positive whole numbers.
    """

    chunk: int = 64
    budget: int = 2**30

    def __post_init__(self) -> None:
        for name in ("chunk", "budget"):
            value: Any = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(name, repr(value), "a positive whole number")

    def run(self, problem: Problem, plan: Plan, stats: Statistics) -> Trajectory:
        """Integrate, carrying derivatives along."""
        if active():
            return recorded(problem, plan)
        start = problem.y0.real.new_tensor(problem.t0)
        captured = capture(problem.field, start, problem.y0, plan.solver)
        inputs = Inputs(captured, problem.field.tensor_args)
        every = [problem.y0, *tensors_of_times(problem.times), *captured.tensors]
        problem = replace(problem, f0=captured.value)
        carried = _Carried(problem, plan, Columns(every), self, stats, captured.written)
        rows, starts, slopes = _Product.apply(carried, inputs, *every)  # type: ignore[no-untyped-call]
        clock = Clock(problem, plan.ts, problem.times)
        return Trajectory(carried.outcome, rows, carried.pieces(clock, starts, slopes))

    def keeps(self, steps: int, state: int, step: int) -> tuple[int, int]:
        """Estimated bytes kept, for each of the inputs, whose number the solve does not tell."""
        return state, 0


class _Carried:
    """One solve, and the derivatives that go along with it; told of every accepted step.

    Derivatives are of shape (columns, elements), the columns being the inputs.
    """

    def __init__(
        self,
        problem: Problem,
        plan: Plan,
        columns: Columns,
        settings: Forward,
        stats: Statistics,
        written: Sequence[Tensor],
    ) -> None:
        times = None if problem.times is None else problem.times.detached()
        self.problem = replace(problem, y0=problem.y0.detach(), times=times)
        self.plan, self.columns, self.settings, self.stats = plan, columns, settings, stats
        self._written = written
        self.captured = [tensor for tensor in columns.inputs[4:] if tensor is not None]
        self.clock = Clock(self.problem, plan.ts, times)
        self._saver = Saver(self.problem, plan, self.clock)
        own: list[Tensor] = [*(times or ()), *self.captured]
        places = range(1 if times else 4, len(columns.inputs))
        owned = [
            (place, tensor)
            for place, tensor in zip(places, own, strict=True)
            if columns.span(place).start < columns.span(place).stop
        ]
        self._products = Products(columns, owned, settings.chunk)
        self._guard = Guard(own)
        # The loop's own stepper may still be asked for its last step.
        self._stepper = plan.solver.bind(problem.field, problem.field.packing)
        self.reaches: list[Reach] = []
        self.lengths: list[int] = []
        self._state = as_real(self.problem.y0).new_zeros(columns.count, self._elements)
        self._state[columns.span(0)].fill_diagonal_(1.0)
        self._memory: list[Tensor] | None = None
        self._rows: list[Tensor] = []
        self._starts: list[Tensor] = []
        self._slopes: list[Tensor] = []
        self._bytes = 0
        known = [self._state] * (len(plan.ts) + plan.save.t0 + plan.save.keeps_t1)
        self._afford(self._state, *known)
        self._bytes = 0

    @property
    def _elements(self) -> int:
        return as_real(self.problem.y0).numel()

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Integrate; rows (T, N); for dense output starts (S, N) and all pieces' rows (R, N)."""
        y0 = self.problem.y0
        self._rows += [self._state] * len(self._saver.initial_times())
        with without_hooks(self.captured):
            self.outcome: Outcome = integrate(
                self.problem, self.plan, clock=self.clock, recorder=self
            )
        rows, pieces = stacked(self.outcome.rows, y0), self.outcome.pieces
        self.outcome.rows = []
        if not pieces:
            return rows, y0.new_empty(0), y0.new_empty(0)
        self.lengths = [len(piece.slopes) for piece in pieces]
        starts = torch.stack([piece.y for piece in pieces])
        return rows, starts, torch.cat([piece.slopes for piece in pieces])

    def pieces(self, clock: Clock, starts: Tensor, slopes: Tensor) -> tuple[DensePiece, ...]:
        """The interpolants over the differentiable `starts` and `slopes`."""
        plain, self.outcome.pieces = self.outcome.pieces, []
        parts = zip(plain, self.reaches, starts, slopes.split(self.lengths), strict=False)
        return tuple(
            replace(piece, t=clock.time(reach.t), t_next=clock.time(reach.t_next), y=y, slopes=k)
            for piece, reach, y, k in parts
        )

    def accepted(self, start: Start, reach: Reach, step: Step, rows: int) -> None:
        """Note a step, and carry the derivatives over it."""
        self.reaches.append(reach)
        if not self.columns.count:
            return
        with as_they_are(self._written):
            self._carry(start, reach)

    def _carry(self, start: Start, reach: Reach) -> None:
        """Take the step again, and carry the derivatives over it."""
        if self._memory is None:
            self._memory = self._initial(start.memory)
        clock, dense = self.clock, self.plan.save.dense
        with torch.enable_grad():
            y, memory = start.y.detach().requires_grad_(), as_leaves(start.memory.essential)
            before = operations_so_far(y)
            again = self._stepper.advance(clock.time(reach.t), clock.time(reach.t_next), y, memory)
            saved = list(self._saver.rows(reach, again))
            slopes = [again.dense().slopes] if dense else []
            size = operations_so_far(y) - before
        outputs = [again.y1, *again.memory.carried, *saved, *slopes]
        leaves = [y, *memory.carried]
        self._guard.check([again.y1, *saved, *slopes], leaves, size)
        if dense:
            self._starts.append(self._state)
        self._state, *found = self._products(
            outputs, leaves, [self._state, *self._memory], (size, len(saved))
        )
        count = len(again.memory.carried)
        self._memory, kept = found[:count], found[count:]
        self._rows += kept[: len(saved)]
        self._slopes += kept[len(saved) :]
        self._afford(*kept, *self._starts[len(self._starts) - dense :])

    def _initial(self, memory: Memory) -> list[Tensor]:
        """Derivatives of what the first step is handed."""
        if not memory.carried:
            return []
        with torch.enable_grad():
            y0 = self.problem.y0.detach().requires_grad_()
            handed = self._stepper.init(self.clock.time(self.problem.t0), y0)
        return self._products(handed.carried, [y0], [self._state])

    def _afford(self, *kept: Tensor) -> None:
        """Count what is kept; raise if it is too much."""
        self._bytes += sum(tensor.numel() * tensor.element_size() for tensor in kept)
        if self._bytes <= self.settings.budget:
            return
        rows = sum(tensor.shape[1] for tensor in kept) // max(1, self._elements)
        raise GradientError(
            f"Forward would keep derivatives of {self._bytes / 2**20:.0f} MiB or more, over its "
            f"budget of {self.settings.budget / 2**20:.0f} MiB: a state of {self._elements} "
            f"numbers, {rows} times at once, by {self.columns.count} inputs that require grad. "
            "Use `adjoint=Checkpointed()`, whose memory does not grow with the number of "
            "inputs, or raise `Forward(budget=...)`."
        )

    def derivatives(self) -> tuple[Tensor, ...]:
        """Those of rows, starts and slopes, each (columns, elements); they are handed over."""
        nothing = self._state.new_empty(self.columns.count, 0)
        found = (self._rows, self._starts, self._slopes)
        joined = tuple(torch.cat(kept, 1) if kept else nothing for kept in found)
        self._rows, self._starts, self._slopes, self._memory = [], [], [], None
        self._state = nothing
        return joined

    def backward(
        self, derivatives: Sequence[Tensor], cotangents: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Gradients of all inputs: the product of the kept derivatives and the cotangents."""
        total = derivatives[0].new_zeros(self.columns.count)
        for kept, cotangent in zip(derivatives, cotangents, strict=True):
            if kept.numel() and cotangent.numel():
                # Out of place: cotangents may be a stack of them, which `vmap` shows as one.
                total = total + kept @ as_real(cotangent).reshape(-1).to(kept)
        return self.columns.gradients(total)


class _Product(torch.autograd.Function):
    """Rows and dense data of a solve, differentiable in y0, times and captured tensors."""

    @staticmethod
    def forward(
        ctx: Any, carried: _Carried, inputs: Inputs, *every: Tensor | None
    ) -> tuple[Tensor, ...]:
        outputs = carried.forward()
        ctx.carried, ctx.inputs = carried, inputs
        # Autograd lets go of the derivatives once the backward pass is over.
        ctx.save_for_backward(*carried.derivatives(), *inputs.watched(every))
        return outputs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        carried: _Carried = ctx.carried
        inputs: Inputs = ctx.inputs
        (*derivatives, y0, t0, t1, ts), began = ctx.saved_tensors[: 3 + 4], perf_counter()
        with torch.no_grad():
            found = inputs.without_unused(carried.backward(derivatives, cotangents))
        carried.stats.wall_time_backward += perf_counter() - began
        return (None, None, *once(found, [y0, t0, t1, ts, *inputs.captured, *cotangents]))
