"""A solver whose steps are compiled: it stands where the method proper stood."""

from __future__ import annotations

import functools
import weakref
from array import array
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import GradientError
from ..integrate import Whole, WholeSolver
from ..problem import PackedField, Plan, Problem
from ..solvers.base import DensePiece, Field, Memory, Solver, Step, Time
from ..solvers.complete import CompleteSolver, CompleteStepper
from ..solvers.tableau import CENTRE
from ..state import Packing
from .building import Artifact
from .native.whole import Driven, solved
from .program import KeptSteps, Program, Subject

__all__ = ["CompiledSolver"]


class CompiledSolver(CompleteSolver, WholeSolver):
    """The solver proper with compiled steps, for one field and one tolerance.

    It holds neither the field nor its tensors, so that it may be remembered for as long as the
    field lives. Who goes back over a solve holds the tensors, by `versions`.

    Args:
        solver: the solver proper.
        plan: for the tolerances.
        packing: of the state.
        program: the compiled formulas.
        used: the tensors that they depend on.
        start: chooses the first step, where that is wanted.
        kept: steps that keep what their pull-back needs, where that is wanted.
        again: makes a field, as a problem has it, the subject of further formulas.
    """

    def __init__(
        self,
        solver: Solver,
        plan: Plan,
        packing: Packing,
        program: Program,
        used: Sequence[Tensor],
        start: Artifact | None,
        kept: KeptSteps | None,
        again: Callable[[PackedField], AbstractContextManager[Subject]],
    ) -> None:
        super().__init__(solver)
        self.program, self.packing, self.start, self.kept = program, packing, start, kept
        self._again = again
        self._pull: Artifact | None = None
        self._used = [weakref.ref(tensor) for tensor in used]
        vectors = program.request.vectors
        self.tolerances = (1.0, 1.0) if vectors else (float(plan.rtol), float(plan.atol))
        common: list[Tensor] = []
        if program.dynamic:
            common.append(torch.empty(packing.batch or 1))
        if vectors:
            common += [_vector(plan.rtol, packing), _vector(plan.atol, packing)]
        self._own = common
        # Those with a batch are read as if they were contiguous. A copy serves one solve.
        self._copied = [
            i
            for i, (slot, x) in enumerate(zip(program.slots, used, strict=True))
            if slot.dynamic and not x.is_contiguous()
        ]
        self._driven: Driven | None = None

    @property
    def depends_on(self) -> tuple[Tensor, ...]:
        """The tensors that require grad, in the order in which their gradients are added up."""
        return tuple(tensor for tensor in self.used if tensor.requires_grad)

    @property
    def used(self) -> list[Tensor]:
        """The tensors that the steps depend on."""
        found = [reference() for reference in self._used]
        alive = [tensor for tensor in found if tensor is not None]
        if len(alive) < len(found):
            raise AssertionError("a tensor of the field is gone before its solve was")
        return alive

    def prepare(self, field: PackedField, *, pulls: bool) -> None:
        """Have steps that keep nothing ready, and their pull-back: compile what is not yet."""
        _ = self.program.step
        if pulls and self._pull is None:
            with self._again(field) as subject:
                self._pull = self.program.pull(subject)

    def pulling(self, field: PackedField) -> Artifact:
        """Pulls steps back that kept nothing."""
        self.prepare(field, pulls=True)
        assert self._pull is not None
        return self._pull

    @property
    def has_slopes(self) -> bool:
        """Whether its steps have interpolants."""
        return self.program.rows > 0

    def versions(self) -> list[tuple[Tensor, int]]:
        """The tensors, each with how often it was written to."""
        return [(tensor, _version(tensor)) for tensor in self.used]

    def demand_unchanged(self, versions: Sequence[tuple[Tensor, int]]) -> None:
        """Raise GradientError if a tensor was written to since it had its version.

        A backward pass over other values would be wrong.
        """
        for tensor, before in versions:
            if before != _version(tensor):
                raise GradientError(
                    f"a tensor of shape {tuple(tensor.shape)} that the field uses was changed in "
                    "place after the solve, before its backward pass: the gradient would be that "
                    "of another solve. Call backward() first, or change a copy."
                )

    def prepared(self, artifact: Artifact) -> list[Tensor]:
        """What an artifact takes after its own inputs, from the tensors as they are now."""
        used = self.used
        for place in self._copied:
            used[place] = used[place].contiguous()
        return artifact.prepared([*self._own, *used], len(used))

    def bind(self, field: Field, packing: Packing) -> CompleteStepper:
        """A stepper over the field, a `PackedField`, that this was made for."""
        assert isinstance(field, PackedField)
        return _CompiledStepper(self, field)

    def whole(self, problem: Problem, plan: Plan, record: bool) -> Whole | None:
        """The whole solve without Python between its steps, where the driver can take it."""
        if self._driven is None:
            self._driven = Driven.of(self)
        return None if self._driven is None else solved(self._driven, problem, plan, record)

    def packed(self, y: Tensor) -> Tensor:
        """A state as the artifacts were made for it; they do not look. A start may be a view."""
        if y.dtype is not self.packing.dtype or y.shape != (self.packing.size,):
            raise AssertionError(f"a packed state was expected, not {y.dtype} {tuple(y.shape)}")
        return y if y.is_contiguous() and not y.is_neg() else _plain(y)


class _CompiledStepper(CompleteStepper):
    def __init__(self, compiled: CompiledSolver, field: PackedField) -> None:
        self.compiled, self.field, self.program = compiled, field, compiled.program
        # A host array that a tensor looks into: writing to it costs a tenth of making a tensor.
        self._times = array("d", [0.0, 0.0, *compiled.tolerances])
        self._clock = torch.frombuffer(self._times, dtype=torch.float64)
        self._common = compiled.prepared(compiled.program.step)
        self._run = compiled.program.step.run

    def begin(self, t0: float, t1: float, y: Tensor) -> tuple[Memory, float]:
        y = self.compiled.packed(y.detach())
        self._times[0], self._times[1] = t0, t1
        start = self.compiled.start
        assert start is not None
        slope, h = start.run([self._clock, y, *self.compiled.prepared(start)])
        self.field.evaluations += 2
        return Memory(slope), h.item()

    def init(self, t: Time, y: Tensor, f0: Tensor | None = None) -> Memory:
        if f0 is not None or not self.program.fsal:
            return Memory(f0)
        time = torch.tensor(float(t), dtype=self.field.packing.time_dtype)
        return Memory(self.field(time, y.detach()).detach().clone())

    def step(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        self._times[0], self._times[1] = t, t_next  # type: ignore[assignment]
        y = self.compiled.packed(y)
        self.field.evaluations += self.program.evaluations_per_step
        if self.program.fsal:
            first = memory.slope if memory is not None else None
            if first is None:
                first = self.init(t, y).slope
            assert first is not None
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
        y = self.compiled.packed(y)
        own = [_plain(cotangent)]
        if self.program.rows:
            if slopes is None:
                slopes = y.new_zeros(self.program.rows, y.numel())
            own.append(_plain(slopes.reshape(-1)))
        self.field.evaluations += self.program.evaluations_per_pull
        pull = self.compiled.pulling(self.field)
        return pull.run([self._clock, y, *own, *self._common_of_pull, *totals])[0]

    @functools.cached_property
    def _common_of_pull(self) -> list[Tensor]:
        return self.compiled.prepared(self.compiled.pulling(self.field))

    def outline(self, t: float, t_next: float, y: Tensor) -> DensePiece:
        return self.piece(t, t_next, y, y.detach().new_zeros(self.program.rows, y.numel()))

    def piece(self, t: Time, t_next: Time, y: Tensor, slopes: Tensor) -> DensePiece:
        """The interpolant of a step."""
        return DensePiece(t, t_next, y, slopes, self.program.weights, float(CENTRE))


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
        if self.stepper.program.fsal:
            first, last = self.retry.slope, self.memory.slope
            assert first is not None
            assert last is not None
            slopes = [first, *slopes, last]
        return self.stepper.piece(self.t, self.t_next, self.y0, torch.stack(slopes))


def _version(tensor: Tensor) -> int:
    """How often a tensor was written to; inference tensors do not count."""
    return -1 if tensor.is_inference() else tensor._version


def _vector(tolerance: Any, packing: Packing) -> Tensor:
    """A tolerance as a packed vector."""
    tensor = torch.as_tensor(tolerance, dtype=packing.dtype)
    return _plain(tensor.detach().expand(packing.size))


def _plain(tensor: Tensor) -> Tensor:
    """A tensor that lies in memory as it is read: artifacts do not look."""
    return tensor.resolve_conj().resolve_neg().contiguous()
