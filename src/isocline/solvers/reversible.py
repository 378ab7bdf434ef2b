"""An algebraically reversible method out of any explicit Runge-Kutta method.

McCallum and Foster (2024), "Efficient, Accurate and Stable Gradients for Neural ODEs", arXiv
2410.11648. With Psi_h(t, z) the increment of the base method over h, a second state z goes along:

    y1 = lambda y + (1 - lambda) z + Psi_h(t, z),
    z1 = z - Psi_-h(t + h, y1).

Both lines can be solved for what they started from, z first, so that a solve can be run back to
its start to rounding, with nothing remembered. The order is that of the base method, and a
coupling lambda below 1 gives a region of stability, which no reversible method has without one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import InputError, InputTypeError
from ..state import Packing
from .base import DensePiece, Field, Memory, Step, Time
from .explicit import ExplicitRungeKutta
from .family import EXPLICIT

__all__ = ["CoupledStepper", "Reversible"]


@dataclass(frozen=True, slots=True)
class Reversible:
    """McCallum and Foster's reversible method over an explicit Runge-Kutta method.

    A step costs two of the base method, neither of which can start from the last slope of another.

    Where the flow contracts, at a rate L, y and z depart from each other at that rate, unless a
    step is shorter than (1 - coupling) / L. The error estimate sees to that, but the solution may
    then be off by up to 1 / (1 - coupling) tolerances. For long contractions take a coupling
    lower than the default.

    Attributes:
        solver: the base method, or its name.
        coupling: lambda above, in (0, 1]. Going back enlarges rounding errors by 1 / lambda a
            step; 1 is without stability.

    Raises:
        InputError: for an unknown name or a coupling outside of (0, 1].
        InputTypeError: for a solver of another kind.
    """

    solver: ExplicitRungeKutta | str = EXPLICIT["tsit5"]()  # noqa: RUF009 (a value, immutable)
    coupling: float = 0.999

    def __post_init__(self) -> None:
        if isinstance(self.solver, str):
            object.__setattr__(self, "solver", _named(self.solver))
        if not isinstance(self.solver, ExplicitRungeKutta):
            raise InputTypeError(
                "solver",
                repr(self.solver),
                f"an explicit Runge-Kutta method: {', '.join(EXPLICIT)}",
            )
        if not 0 < self.coupling <= 1:
            raise InputError("coupling", str(self.coupling), "a number in (0, 1]")

    @property
    def base(self) -> ExplicitRungeKutta:
        """The base method."""
        assert isinstance(self.solver, ExplicitRungeKutta)  # since __post_init__
        return self.solver

    @property
    def name(self) -> str:
        """Name of the class, and of the base method."""
        return f"Reversible({self.base.name})"

    @property
    def reference(self) -> str:
        """Where the method was proposed."""
        return (
            "McCallum and Foster (2024), Efficient, accurate and stable gradients for neural "
            "ODEs, arXiv 2410.11648"
        )

    @property
    def order(self) -> int:
        """Order of the solution."""
        return self.base.order

    @property
    def dense_order(self) -> int:
        """q, where the interpolant of one step errs by O(h^(q + 1))."""
        return self.base.dense_order

    @property
    def error_order(self) -> int:
        """k, where the error estimate of one step is O(h^k); 0 for methods without one."""
        return self.base.error_order

    @property
    def adaptive(self) -> bool:
        """Whether the base method estimates its error."""
        return self.base.adaptive

    @property
    def evaluations_per_step(self) -> int:
        """Evaluations of the field: a step of the base method from z, and one back from y1."""
        tableau = self.base.tableau
        return (tableau.stages if tableau.adaptive else tableau.needed) + tableau.needed

    def bind(self, field: Field, packing: Packing) -> CoupledStepper:
        """The method bound to the packed `field`."""
        return CoupledStepper(self.base, self.coupling, field, packing)


def _named(name: str) -> ExplicitRungeKutta:
    found = EXPLICIT.get(name.lower().replace("_", ""))
    if found is None:
        raise InputError("solver", repr(name), f"one of {', '.join(EXPLICIT)}")
    return found()


class CoupledStepper:
    """Takes steps, forward and back; carries z, shape (N,)."""

    def __init__(
        self, base: ExplicitRungeKutta, coupling: float, field: Field, packing: Packing
    ) -> None:
        self.coupling = coupling
        # Two steppers, since a step's stages last only until its stepper's next step, and the
        # interpolant wants those of the first.
        self.ahead = base.bind(field, packing)
        self.behind = base.bind(field, packing)

    @property
    def combine(self) -> Callable[..., Tensor] | None:
        """The base method's."""
        return self.ahead.combine

    def init(self, t: Time, y: Tensor, f0: Tensor | None = None) -> Memory:
        """The second state starts where the first does."""
        return Memory(f0, (y,))

    def step(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """One step from (t, y) to t_next with an error estimate, if the base method has one.

        The base method estimates how its step from z errs. A step from y would differ from that by
        h J (y - z), where J is the Jacobian. Up to terms of higher order this is what lambda (y -
        z) loses in the step, since going back from y1 shrinks it by I - h J. Without this term a
        solve would run away with y - z unnoticed where the flow contracts; with it the steps shrink
        until the coupling holds the states together.
        """
        step = self._step(self.ahead.step, t, t_next, y, memory)
        if step.errors:
            (z,), (z1,) = step.retry.carried, step.memory.carried
            lost = torch.sub((y - z) * self.coupling, step.y1 - z1).detach()
            step.errors = tuple(error + lost for error in step.errors)
        return step

    def advance(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """The same `y1` and z1, with no error estimate."""
        return self._step(self.ahead.advance, t, t_next, y, memory)

    def back(self, t: Time, t_next: Time, y1: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """What the step from t to `t_next` started from, of which this is the end."""
        (z1,) = memory.carried
        z = z1 + (self.behind.advance(t_next, t, y1, None).y1 - y1)
        y = z + (y1 - self.ahead.advance(t, t_next, z, None).y1) / self.coupling
        return y, Memory(None, (z,))

    def _step(
        self, take: Callable[..., Step], t: Time, t_next: Time, y: Tensor, memory: Memory | None
    ) -> Step:
        given = memory if memory and memory.carried else self.init(t, y)
        (z,) = given.carried
        base = take(t, t_next, z, None)
        # lambda y + (1 - lambda) z + Psi, where z + Psi is the end of the base method's step.
        y1 = torch.add(base.y1, y - z, alpha=self.coupling)
        z1 = z - (self.behind.advance(t_next, t, y1, None).y1 - y1)
        return _ReversibleStep(
            y1, base.errors, Memory(None, (z1,)), given, base, y, z, self.coupling
        )


@dataclass(slots=True)
class _ReversibleStep(Step):
    """A step that still holds the base method's step from z.

    Attributes:
        base: that step.
        y0, z0: both states at the start.
        coupling: lambda.
    """

    base: Step
    y0: Tensor
    z0: Tensor
    coupling: float

    def dense(self) -> DensePiece:
        """The base method's from z, and what draws y to z: continuous, and as accurate.

        y(t + theta h) = y + theta (1 - lambda) (z - y) + h sum_j b_j(theta) k_j.
        """
        piece = self.base.dense()
        h = piece.t_next - piece.t
        apart = (self.z0 - self.y0) * (1 - self.coupling)
        drawn = apart / (h.to(apart) if isinstance(h, Tensor) else h)
        linear = torch.zeros(1, piece.weights.shape[1], dtype=torch.float64)
        linear[0, 0] = 1.0
        return replace(
            piece,
            y=self.y0,
            slopes=torch.cat([piece.slopes, drawn.unsqueeze(0)]),
            weights=torch.cat([piece.weights, linear]),
        )
