"""Protocols of a solver, and what one step hands back.

A `Solver` is what the user chooses: small, immutable, printable. Bound to a field and the layout
of its state it becomes a `Stepper`, which takes steps. For who implements one:

1. `step` is pure: the same arguments give the same answer to the last bit. Scratch buffers are
   allowed, memory between calls is not: what a step wants to know of the one before travels in
   its `Memory`.
2. It goes from `t` to `t_next`, either way in time, and evaluates the field only between them.
3. Where a graph is recorded (grad mode is on), `y1`, `memory.carried` and the dense output are
   differentiable in y, in what was carried to the step, in the field's tensors, and in `t` and
   `t_next` if these are tensors; the errors never are. With a graph and without, all have the
   same bits.
4. It knows nothing of tolerances, acceptance, saving or gradients.
5. The field may hand out one buffer at every call: copy what must outlast the next call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..state import Packing

__all__ = [
    "DensePiece",
    "Field",
    "Memory",
    "ReversibleStepper",
    "Solver",
    "Step",
    "Stepper",
    "Time",
]

Time = float | Tensor
"""A time on the host, or a 0-d float64 tensor where a gradient with respect to it is wanted."""

Field = Callable[[Tensor, Tensor], Tensor]
"""The packed field: (0-d t, y of shape (N,)) -> dy/dt of shape (N,)."""


class Memory(NamedTuple):
    """What a step hands to the next one, which starts from its end.

    Attributes:
        slope: the field at the state, if it is known. It saves an evaluation and changes no bit.
        carried: what the method needs besides y, such as past slopes or a second state, each of
            shape (N,). Adjoints remember and differentiate it as they do y.
        numbers: what goes with it on the host, such as times and orders: constants of the
            discrete solve.
    """

    slope: Tensor | None = None
    carried: tuple[Tensor, ...] = ()
    numbers: Any = None

    @property
    def essential(self) -> Memory:
        """This without the slope: all that a replay of the next step needs."""
        return Memory(None, self.carried, self.numbers)

    def detached(self) -> Memory:
        """This without a graph."""
        slope = None if self.slope is None else self.slope.detach()
        return Memory(slope, tuple(tensor.detach() for tensor in self.carried), self.numbers)


@dataclass(frozen=True, slots=True)
class DensePiece:
    """The continuous extension of one step: y(t + theta h) = y + h sum_j b_j(theta) k_j.

    A row k_j is a stage, or anything else with the dimension of a slope. Steps of one solve may
    differ in the number of rows and in their weights.

    Attributes:
        t, t_next: ends of the step.
        y: packed state at t, shape (N,).
        slopes: rows k_j, shape (rows, N). Without a graph this may be the stepper's scratch,
            valid until its next step: `own` makes it last.
        weights: coefficients w of b_j(theta) = theta sum_m w_jm (theta - centre)^m, shape
            (rows, degree), float64, CPU. With the centre at 0 those of theta, theta^2, ...
        centre: about 1/2, polynomials of high degree have small coefficients, so that rounding
            them and summing them costs few digits; about 0 it can cost six.
    """

    t: Time
    t_next: Time
    y: Tensor
    slopes: Tensor
    weights: Tensor
    centre: float = 0.0

    def own(self) -> DensePiece:
        """This piece with slopes of its own."""
        return replace(self, slopes=self.slopes.clone())

    def at(self, t: Tensor) -> Tensor:
        """States at the times `t`, shape (m,), float64: a matrix of shape (m, N)."""
        slopes = self.slopes
        return self.y + self.basis(t).to(device=slopes.device, dtype=slopes.dtype) @ slopes

    def basis(self, t: Tensor) -> Tensor:
        """What each slope counts at the times `t`, shape (m,), float64: h b_j, shape (m, rows)."""
        h = self.t_next - self.t
        theta = ((t - self.t) / h).unsqueeze(-1)
        exponents = torch.arange(self.weights.shape[1], device=theta.device)
        powers = theta * (theta - self.centre) ** exponents
        return h * (powers @ self.weights.to(theta.device).t())


@dataclass(slots=True)
class Step(ABC):
    """What one step hands back.

    Attributes:
        y1: packed state at t_next.
        errors: local error estimates (packed vectors); empty for methods without one.
        memory: for the next step, which starts from (t_next, y1). `dense` may find its slope.
        retry: for trying this step again from (t, y) with another length.
    """

    y1: Tensor
    errors: tuple[Tensor, ...]
    memory: Memory
    retry: Memory

    @abstractmethod
    def dense(self) -> DensePiece:
        """The continuous extension; may evaluate the field. To be asked before the next step."""

    def judge(self, ratios: Sequence[float]) -> float:
        """The ratio of error to tolerance that the controller is to see.

        A method with several estimates, of several orders, is told the ratio of each. It settles
        what the next step is to do, in `memory` and `retry`, before it answers.
        """
        return ratios[0]

    @property
    def measured(self) -> float | None:
        """The ratio of error to tolerance, where the step was told the tolerances itself."""
        return None

    @property
    def unsolved(self) -> bool:
        """Whether the equations that y1 is defined by could not be solved; it holds NaN then."""
        return False


class Stepper(Protocol):
    """A method bound to a field and a layout."""

    @property
    def combine(self) -> Callable[..., Tensor] | None:
        """The rule that makes one number of the norms of several errors, sample by sample."""

    def init(self, t: Time, y: Tensor, f0: Tensor | None = None) -> Memory:
        """Memory for the first step; `f0` is the field at (t, y) if it is known."""

    def step(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """One step with its error estimate; without a memory, the first one."""

    def advance(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """The same `y1` and `memory.carried` to the last bit, with no error estimate."""


@runtime_checkable
class ReversibleStepper(Stepper, Protocol):
    """A method whose steps can be taken back, with nothing remembered of where they started."""

    def back(self, t: Time, t_next: Time, y1: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """What the step from t to `t_next` started from, of which this is the end, to rounding."""


class Solver(Protocol):
    """A method as the user chooses it."""

    @property
    def name(self) -> str:
        """What to call it in messages."""

    @property
    def reference(self) -> str:
        """Author, year, and where in the source the method stands."""

    @property
    def order(self) -> int:
        """Order of the solution."""

    @property
    def dense_order(self) -> int:
        """q, where the interpolant of one step errs by O(h^(q + 1))."""

    @property
    def error_order(self) -> int:
        """k, where the error estimate of one step is O(h^k); 0 for methods without one."""

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error."""

    @property
    def evaluations_per_step(self) -> int:
        """Evaluations of the field that an accepted step costs, once the method has started."""

    def bind(self, field: Field, packing: Packing) -> Stepper:
        """The method bound to the packed `field`.

        Raises:
            InputError: for a state that the method cannot take.
        """
