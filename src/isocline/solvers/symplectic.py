"""Symplectic methods for separable systems: leapfrog, and compositions of it of higher order.

The state is two halves, positions q and momenta p, of a system

    dq/dt = g(t, p),    dp/dt = f(t, q),

such as that of a Hamiltonian T(t, p) + V(t, q). Each half moves while the other stands still, so
that a step is an exact composition of shears: it preserves volume, and where the system is
Hamiltonian it is symplectic. With constant steps the error of the energy then stays bounded, by
O(h^order), over times that are exponentially long in 1 / h (Hairer, Lubich and Wanner, "Geometric
Numerical Integration", 2006, section IX.8). So none of the methods has an error estimate.

The field is called as any other, with the whole state, and one half of its answer is used. Whether
the system separates is not checked. If the rate of q depends on q or that of p on p,
the step is not symplectic and its order falls to one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import InputError
from ..state import Packing, tree_describe, tree_leaves
from .base import DensePiece, Field, Memory, Step, Time
from .compositions import KAHAN_LI8, LEAPFROG, YOSHIDA4, YOSHIDA6, Composition, Stage
from .explicit import StageTimes

__all__ = ["KahanLi8", "Leapfrog", "Splitting", "Yoshida4", "Yoshida6"]

# The cubic through y and y1 with the slopes k0 and k1, over the rows k0, k1, (y1 - y) / h.
_HERMITE = torch.tensor([[1, -2, 1], [0, -1, 1], [0, 3, -2]], dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Splitting(ABC):
    """A symmetric splitting method; its subclasses name the composition.

    The state is a pair (tuple, list or dict of two entries of equal size) of positions and
    momenta, or a single tensor whose last dimension holds first the ones, then the others.
    """

    composition: ClassVar[Composition]
    outer: ClassVar[int]
    """The half that moves first and last: 0 for the positions, 1 for the momenta."""

    @property
    @abstractmethod
    def merges(self) -> bool:
        """Whether what moves last in one substep moves together with what is first in the next."""

    @property
    def name(self) -> str:
        """Name of the class."""
        return self.composition.name

    @property
    def reference(self) -> str:
        """Source of the composition."""
        return self.composition.reference

    @property
    def order(self) -> int:
        """Order of the solution."""
        return self.composition.order

    @property
    def dense_order(self) -> int:
        """q, where the cubic Hermite interpolant of one step errs by O(h^(q + 1))."""
        return min(self.order, 3)

    @property
    def error_order(self) -> int:
        """0: there is no error estimate."""
        return 0

    @property
    def adaptive(self) -> bool:
        """Steps are constant, or the energy would drift."""
        return False

    @property
    def evaluations_per_step(self) -> int:
        """Evaluations of the field that a step costs."""
        return len(self.stages) - self.merges

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What a step does, in order."""
        composition = self.composition
        return (composition.merged if self.merges else composition.frozen)(self.outer)

    def bind(self, field: Field, packing: Packing) -> SplittingStepper:
        """The method bound to the packed `field`.

        Raises:
            InputError: for a state that is not two halves.
        """
        return SplittingStepper(self.stages, self.merges, field, packing)


@dataclass(frozen=True, slots=True)
class Leapfrog(Splitting):
    """Leapfrog in velocity form, or velocity Verlet: kick, drift, kick. Order 2, symplectic.

    Two evaluations a step: the kick that ends one begins the next.
    """

    composition = LEAPFROG
    outer = 1

    @property
    def merges(self) -> bool:
        """Kicks at both ends, the drift in the middle: all times are inside of the step."""
        return True


@dataclass(frozen=True, slots=True)
class Yoshida4(Splitting):
    """Yoshida's composition of 3 leapfrog steps: order 4, symplectic.

    Attributes:
        autonomous: dq/dt does not depend on t, as with constant masses. Where one substep
            ends and the next begins the two drifts are then one, and a step costs 6 evaluations
            in place of 9.
    """

    autonomous: bool = False
    composition = YOSHIDA4
    outer = 0

    @property
    def merges(self) -> bool:
        """Substeps end outside of the step, where the rate of q must not be asked for."""
        return self.autonomous


@dataclass(frozen=True, slots=True)
class Yoshida6(Splitting):
    """Yoshida's composition of 7 leapfrog steps: order 6, symplectic.

    Attributes:
        autonomous: dq/dt does not depend on t, as with constant masses. Where one substep
            ends and the next begins the two drifts are then one, and a step costs 14 evaluations
            in place of 21.
    """

    autonomous: bool = False
    composition = YOSHIDA6
    outer = 0

    @property
    def merges(self) -> bool:
        """Substeps end outside of the step, where the rate of q must not be asked for."""
        return self.autonomous


@dataclass(frozen=True, slots=True)
class KahanLi8(Splitting):
    """Kahan and Li's composition of 17 leapfrog steps: order 8, symplectic. 34 evaluations."""

    composition = KAHAN_LI8
    outer = 0

    @property
    def merges(self) -> bool:
        """All substeps end within the step."""
        return True


class SplittingStepper:
    """Takes the stages of one step in turn.

    Where stages merge, a step begins with the outer half's rate at its start. The step before has
    found it, in an evaluation at its end that precedes the last move of the outer half itself. So
    this is not the field at the state, but agrees with it in the half that is used, and is carried.
    """

    combine = None

    def __init__(
        self, stages: Sequence[Stage], merges: bool, field: Field, packing: Packing
    ) -> None:
        self.field = field
        self.carries = merges
        self.halves = _halves(packing)
        self.nodes = [float(stage.node) for stage in stages]
        self.time_dtype, self.device = packing.time_dtype, packing.device
        moves = torch.zeros(len(stages), 1, 2, 1, dtype=torch.float64)
        for row, stage in zip(moves, stages, strict=True):
            row[0, stage.half] = float(stage.weight)
        self._moves = moves.to(packing.device, packing.dtype)

    def init(self, t: Time, y: Tensor, f0: Tensor | None = None) -> Memory:
        """The field at (t, y), where the first step needs it."""
        if not self.carries:
            return Memory(f0)
        slope = self.slope(t, y) if f0 is None else f0
        return Memory(slope, (slope,))

    def step(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """One step from (t, y) to t_next."""
        times = StageTimes(self.nodes, t, t_next, self.device, self.time_dtype)
        h = t_next - t
        moves = (self._moves * (h.to(self._moves) if isinstance(h, Tensor) else h)).unbind()
        given = memory or Memory()
        first = (given.carried[0] if given.carried else given.slope) if self.carries else None
        halves, state, slope = self.halves, y, y
        for stage, move in enumerate(moves):
            known = first if stage == 0 else None
            slope = self.field(times[stage], state) if known is None else known
            state = torch.addcmul(state.view(halves), slope.view(halves), move).view(-1)
        carried = (_lasting(slope),) if self.carries else ()
        return _SplittingStep(state, (), Memory(None, carried), given, self, t, t_next, y)

    def advance(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """The same: there is no error estimate to leave out."""
        return self.step(t, t_next, y, memory)

    def back(self, t: Time, t_next: Time, y1: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """What the step from t to `t_next` started from, of which this is the end.

        Stages are shears, and a row of them that reads the same from both ends is undone by the
        step the other way. That carries what this one began with, in the half that counts.
        """
        step = self.step(t_next, t, y1, memory.essential)
        return step.y1, step.memory.essential

    def slope(self, t: Time, y: Tensor) -> Tensor:
        """The field at (t, y), safe to keep."""
        times = StageTimes((0.0,), t, t, self.device, self.time_dtype)
        return _lasting(self.field(times[0], y))


@dataclass(slots=True)
class _SplittingStep(Step):
    """A step that evaluates the field at its ends when dense output needs it."""

    stepper: SplittingStepper
    t: Time
    t_next: Time
    y0: Tensor

    def dense(self) -> DensePiece:
        """Cubic Hermite: one evaluation, and another at the start if it is not known."""
        start, end = self.retry.slope, self.memory.slope
        if start is None:
            start = self.stepper.slope(self.t, self.y0)
            self.retry = self.retry._replace(slope=start)
        if end is None:
            end = self.stepper.slope(self.t_next, self.y1)
            self.memory = self.memory._replace(slope=end)
        h = self.t_next - self.t
        chord = (self.y1 - self.y0) / (h.to(self.y1) if isinstance(h, Tensor) else h)
        return DensePiece(self.t, self.t_next, self.y0, torch.stack([start, end, chord]), _HERMITE)


def _lasting(slope: Tensor) -> Tensor:
    """A slope safe to keep: a field may write all its answers into one buffer of its own."""
    return slope if slope.requires_grad else slope.clone()


def _halves(packing: Packing) -> tuple[int, int, int]:
    """The shape in which the packed state shows its two halves along dimension 1."""
    if packing.template is None:
        shape = packing.shapes[0]
        if shape and shape[-1] % 2 == 0:
            return -1, 2, shape[-1] // 2
        given = f"a tensor of shape {tuple(shape)}"
    else:
        entries = packing.template
        values = list(entries.values() if isinstance(entries, dict) else entries)
        sizes = [sum(leaf.numel() for leaf in tree_leaves(value)) for value in values]
        if len(sizes) == 2 and sizes[0] == sizes[1]:
            return 1, 2, sizes[0]
        given = tree_describe(entries) if values else f"shapes {[*map(tuple, packing.shapes)]}"
    raise InputError(
        "y0",
        given,
        "positions and momenta: a pair of equal size, or a tensor whose last dimension holds "
        "first the ones, then the others",
        "Other solvers take any state; `Backsolve(solver=...)` names one for its reverse solve.",
    )
