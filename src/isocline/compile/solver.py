"""A solver whose steps are compiled: it stands where the method proper stood."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import GradientError
from ..problem import PackedField, Plan
from ..solvers.base import DensePiece, Field, Memory, Solver, Step, Time
from ..solvers.complete import CompleteSolver, CompleteStepper
from ..solvers.tableau import CENTRE
from ..state import Packing
from .program import Program, Subject

__all__ = ["CompiledSolver"]


class CompiledSolver(CompleteSolver):
    """The solver proper with compiled steps, for one problem.

    Args:
        solver: the solver proper.
        field: the packed field.
        plan: for the tolerances.
        program: the compiled formulas.
        subject: the field's tensors at this solve.
        differentiable: whether steps will be pulled back.
    """

    def __init__(
        self,
        solver: Solver,
        field: PackedField,
        plan: Plan,
        program: Program,
        subject: Subject,
        differentiable: bool,
    ) -> None:
        super().__init__(solver)
        self._program = program
        used = [subject.tensors[place] for place in program.tensors]
        self._tensors = tuple(tensor for tensor in used if tensor.requires_grad)
        self._stepper = _CompiledStepper(field, plan, program, subject, used, differentiable)

    @property
    def depends_on(self) -> tuple[Tensor, ...]:
        """The tensors that require grad, in the order in which their gradients are added up."""
        return self._tensors

    @property
    def has_slopes(self) -> bool:
        """Whether its steps have interpolants."""
        return self._program.request.stages

    def bind(self, field: Field, packing: Packing) -> CompleteStepper:
        """The stepper, made with the solver."""
        return self._stepper


class _CompiledStepper(CompleteStepper):
    def __init__(
        self,
        field: PackedField,
        plan: Plan,
        program: Program,
        subject: Subject,
        used: Sequence[Tensor],
        differentiable: bool,
    ) -> None:
        self.field, self.table = field, program.request.tableau
        self._program, self._subject = program, subject
        self._size = field.packing.size
        self._dtype = field.packing.dtype
        # A host array that a tensor looks into: writing to it costs a tenth of making a tensor.
        vectors = program.request.vectors
        rtol, atol = (1.0, 1.0) if vectors else (float(plan.rtol), float(plan.atol))
        self._times = array("d", [0.0, 0.0, rtol, atol])
        self._clock = torch.frombuffer(self._times, dtype=torch.float64)
        common: list[Tensor] = []
        if program.dynamic:
            common.append(torch.empty(field.packing.batch or 1))
        if vectors:
            common += [_vector(plan.rtol, self), _vector(plan.atol, self)]
        slots = zip(program.slots, used, strict=True)
        # Version counters: a backward pass over other values would be wrong.
        self._versions = [
            (tensor, tensor._version)
            for tensor in used
            if differentiable and not tensor.is_inference()
        ]
        common += [tensor.contiguous() if slot.dynamic else tensor for slot, tensor in slots]
        # Each artifact has its own inputs in the place of the tensors, hoisted out of its steps.
        self._shared, self._held = common, len(used)
        self._common = program.step.prepared(common, self._held)
        self._run = program.step.run
        self._pull = program.pull(subject) if differentiable else None
        self._pull_common = self._pull.prepared(common, self._held) if self._pull else common
        # Asked of the table once: it looks through its fractions for the answer.
        self._fsal = self.table.fsal
        self._per_step = self.table.stages - int(self._fsal)

    def begin(self, t0: float, t1: float, y: Tensor) -> tuple[Memory, float]:
        y = self._packed(y.detach())
        self._times[0], self._times[1] = t0, t1
        start = self._program.start(self._subject)
        slope, h = start.run([self._clock, y, *start.prepared(self._shared, self._held)])
        self.field.evaluations += 2
        return Memory(slope), h.item()

    def init(self, t: Time, y: Tensor, f0: Tensor | None = None) -> Memory:
        if f0 is not None or not self._fsal:
            return Memory(f0)
        time = torch.tensor(float(t), dtype=self.field.packing.time_dtype)
        return Memory(self.field(time, y.detach()).detach().clone())

    def step(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        self._times[0], self._times[1] = t, t_next  # type: ignore[assignment]
        y = self._packed(y)
        self.field.evaluations += self._per_step
        if self._fsal:
            first = memory.slope if memory is not None else None
            if first is None:
                first = self.init(t, y).slope
            y1, ratio, last, *slopes = self._run([self._clock, y, first, *self._common])
            retry = Memory(first)
            return _CompiledStep(y1, (), Memory(last), retry, self, t, t_next, y, ratio, slopes)
        y1, ratio, *slopes = self._run([self._clock, y, *self._common])
        return _CompiledStep(y1, (), Memory(), Memory(), self, t, t_next, y, ratio, slopes)

    def advance(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        return self.step(t, t_next, y, memory)

    def pull(
        self,
        t: float,
        t_next: float,
        y: Tensor,
        cotangent: Tensor,
        slopes: Tensor | None,
        totals: Sequence[Tensor],
    ) -> Tensor:
        self._times[0], self._times[1] = t, t_next
        y = self._packed(y)
        own = [_plain(cotangent)]
        count = self.table.needed
        if self._program.request.stages:
            count = self.table.stages
            if slopes is None:
                slopes = y.new_zeros(count, y.numel())
            own.append(_plain(slopes.reshape(-1)))
        self.field.evaluations += count
        assert self._pull is not None
        found = self._pull.run([self._clock, y, *own, *self._pull_common, *totals])
        return found[0]

    def demand_unchanged(self) -> None:
        for tensor, version in self._versions:
            if tensor._version != version:
                raise GradientError(
                    f"a tensor of shape {tuple(tensor.shape)} that the field uses was changed in "
                    "place after the solve, before its backward pass: the gradient would be that "
                    "of another solve. Call backward() first, or change a copy."
                )

    def outline(self, t: float, t_next: float, y: Tensor) -> DensePiece:
        return self.piece(t, t_next, y, y.detach().new_zeros(self.table.stages, y.numel()))

    def piece(self, t: Time, t_next: Time, y: Tensor, slopes: Tensor) -> DensePiece:
        """The interpolant of a step."""
        return DensePiece(t, t_next, y, slopes, self._program.weights, float(CENTRE))

    def _packed(self, y: Tensor) -> Tensor:
        """A state as the artifacts were made for it; they do not look. A start may be a view."""
        if y.dtype is not self._dtype or y.shape != (self._size,):
            raise AssertionError(f"a packed state was expected, not {y.dtype} {tuple(y.shape)}")
        return y if y.is_contiguous() and not y.is_neg() else _plain(y)


@dataclass(slots=True)
class _CompiledStep(Step):
    """A step that measured itself."""

    stepper: _CompiledStepper
    t: Time
    t_next: Time
    y0: Tensor
    ratio: Tensor
    slopes: list[Tensor]

    @property
    def measured(self) -> float:
        """Error over tolerance."""
        return self.ratio.item()

    def dense(self) -> DensePiece:
        """The interpolant, from the slopes that came with the step."""
        slopes = self.slopes
        if self.stepper._fsal:
            first, last = self.retry.slope, self.memory.slope
            assert first is not None
            assert last is not None
            slopes = [first, *slopes, last]
        return self.stepper.piece(self.t, self.t_next, self.y0, torch.stack(slopes))


def _vector(tolerance: Any, stepper: _CompiledStepper) -> Tensor:
    """A tolerance as a packed vector."""
    tensor = torch.as_tensor(tolerance, dtype=stepper._dtype)
    return _plain(tensor.detach().expand(stepper._size))


def _plain(tensor: Tensor) -> Tensor:
    """A tensor that lies in memory as it is read: artifacts do not look."""
    return tensor.resolve_conj().resolve_neg().contiguous()
