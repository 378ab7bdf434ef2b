"""Protocols of a solver, and what one step hands back.

A `Solver` is what the user chooses: small, immutable, printable. Bound to a field and the layout
of its state it becomes a `Stepper`, which takes steps. For who implements one:

1. `step` is pure: the same arguments give the same answer to the last bit. Scratch buffers are
   allowed, memory between calls is not; what a step wants to know of the one before travels in
   `memory`, and must be recomputable from (t, y) alone when it is None.
2. It goes from `t` to `t_next`, either way in time, and evaluates the field only between them.
3. Where a graph is recorded (grad mode is on), `y1` and the dense output are differentiable in y,
   in the field's tensors, and in `t` and `t_next` if these are tensors; the errors never are.
4. It knows nothing of tolerances, acceptance, saving or gradients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["DensePiece", "Field", "Solver", "Step", "Stepper", "Time"]

Time = float | Tensor
"""A time on the host, or a 0-d float64 tensor where a gradient with respect to it is wanted."""

Field = Callable[[Tensor, Tensor], Tensor]
"""The packed field: (0-d t, y of shape (N,)) -> dy/dt of shape (N,)."""


@dataclass(frozen=True, slots=True)
class DensePiece:
    """The continuous extension of one step: y(t + theta h) = y + h sum_j b_j(theta) k_j.

    Attributes:
        t, t_next: ends of the step.
        y: packed state at t, shape (N,).
        slopes: stages k_j, shape (stages, N). Without a graph this may be the stepper's scratch,
            valid until its next step: `own` makes it last.
        weights: coefficients of theta, theta^2, ... in b_j, shape (stages, degree), float64, CPU.
    """

    t: Time
    t_next: Time
    y: Tensor
    slopes: Tensor
    weights: Tensor

    def own(self) -> DensePiece:
        """This piece with slopes of its own."""
        return DensePiece(self.t, self.t_next, self.y, self.slopes.clone(), self.weights)

    def at(self, t: Tensor) -> Tensor:
        """States at the times `t`, shape (m,), float64: a matrix of shape (m, N)."""
        h = self.t_next - self.t
        theta = ((t - self.t) / h).unsqueeze(-1)
        powers = theta ** torch.arange(1, self.weights.shape[1] + 1, device=theta.device)
        basis = h * (powers @ self.weights.to(theta.device).t())
        slopes = self.slopes
        return self.y + basis.to(device=slopes.device, dtype=slopes.dtype) @ slopes


@dataclass(slots=True)
class Step(ABC):
    """What one step hands back.

    Attributes:
        y1: packed state at t_next.
        errors: local error estimates (packed vectors); empty for methods without one.
        memory: for the next step, which starts from (t_next, y1). `dense` may find it.
        retry: for trying this step again from (t, y) with another length.
    """

    y1: Tensor
    errors: tuple[Tensor, ...]
    memory: Any
    retry: Any

    @abstractmethod
    def dense(self) -> DensePiece:
        """The continuous extension; may evaluate the field. To be asked before the next step."""


class Stepper(Protocol):
    """A method bound to a field and a layout."""

    def init(self, t: Time, y: Tensor, f0: Tensor | None = None) -> Any:
        """Memory for the first step; `f0` is the field at (t, y) if it is known."""

    def step(self, t: Time, t_next: Time, y: Tensor, memory: Any) -> Step:
        """One step with its error estimate."""

    def advance(self, t: Time, t_next: Time, y: Tensor) -> Step:
        """The same `y1` to the last bit, with no error estimate: what a replay needs."""

    def combine_errors(self, *norms: Tensor) -> Tensor:
        """One number from the norms of the errors, where the method has several estimates."""


class Solver(Protocol):
    """A method as the user chooses it."""

    @property
    def name(self) -> str:
        """What to call it in messages."""

    @property
    def order(self) -> int:
        """Order of the solution."""

    @property
    def error_order(self) -> int:
        """k, where the error estimate of one step is O(h^k); 0 for methods without one."""

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error."""

    @property
    def evaluations_per_step(self) -> int:
        """Evaluations of the field that an accepted step costs."""

    def bind(self, field: Field, like: Tensor, time_dtype: torch.dtype) -> Stepper:
        """The method bound to `field`, for packed states like `like`."""
