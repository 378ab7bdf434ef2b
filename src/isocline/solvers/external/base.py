"""What a black box is to isocline: one method that integrates, and nothing to see inside.

For who brings another: write a class with a method `integrate` as `BlackBox` describes it, and hand
an object of it to `solve(solver=...)`. It works on NumPy vectors in float64; packing, dtypes,
devices, complex numbers and gradients are looked after outside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from ...errors import GradientError, InputTypeError
from ...solution import Status
from ...state import Packing
from ..base import Field, Solver, Stepper

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Answer", "Array", "BlackBox", "Boxed", "HostField", "Watch", "boxed", "no_steps"]

if TYPE_CHECKING:
    Array = NDArray[Any]
else:
    Array = Any
"""A NumPy array of float64."""

HostField = Callable[[float, Array], Array]
"""The field over NumPy: (t, y of shape (N,)) -> dy/dt, a new array of shape (N,)."""

Watch = Callable[[float, float, Array, Callable[[Sequence[float]], Array], int], None]
"""Told of every step: (t, t_next, y_next, at, degree).

`at(times)` gives the states at times within that step, shape (m, N), from the method's own
interpolant, a polynomial in t of the `degree` given or less; it is valid until `watch` returns.
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a black box hands back.

    Attributes:
        ys: states at the output times, in order, shape (T, N); fewer rows where it failed.
        status: how it ended. A failure is a status, never an exception.
        message: the black box's own words on a failure.
        t_end, y_end: where it stopped, if it failed; by default the last output that it reached.
        steps: steps taken.
        rejected: steps tried in vain, where the black box tells.
    """

    ys: Array
    status: Status = Status.SUCCESS
    message: str = ""
    t_end: float | None = None
    y_end: Array | None = None
    steps: int = 0
    rejected: int = 0


class BlackBox(Protocol):
    """A solver without access to its internals.

    It may have a `name`, for messages, and a true attribute `watches`: then `integrate` takes
    another keyword, `watch`, to be called after each step (see `Watch`), without which `SaveAt`'s
    `steps` and `dense` are not to be had.
    """

    def integrate(
        self,
        field: HostField,
        t0: float,
        t1: float,
        y0: Array,
        *,
        ts: Sequence[float],
        rtol: float,
        atol: float | Array,
        max_steps: int,
    ) -> Answer:
        """Solve y' = field(t, y) from y(t0) = y0 to t1.

        Args:
            field: to be called with times between t0 and t1 alone.
            t0, t1: span; t1 < t0 goes backward in time.
            y0: float64, shape (N,), not to be written to.
            ts: output times in the order of the solve, without repetition, after t0; the last is
                t1.
            rtol: relative tolerance.
            atol: absolute tolerance, positive: a number, or a vector of shape (N,).
            max_steps: steps after which to give up with `Status.MAX_STEPS`.
        """


@dataclass(frozen=True, slots=True)
class Boxed:
    """A black box in the place of a solver. It has no steps of its own to take one by one.

    Attributes:
        box: the black box.
    """

    box: BlackBox

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return str(getattr(self.box, "name", type(self.box).__name__))

    @property
    def reference(self) -> str:
        """Where the method stands, if the black box says."""
        return str(getattr(self.box, "reference", "a black box"))

    @property
    def order(self) -> int:
        """Not known: 0."""
        return 0

    @property
    def dense_order(self) -> int:
        """Not known: 0."""
        return 0

    @property
    def error_order(self) -> int:
        """Not known: 0."""
        return 0

    @property
    def adaptive(self) -> bool:
        """It is given a tolerance."""
        return True

    @property
    def evaluations_per_step(self) -> int:
        """Not known: 1, the least."""
        return 1

    def bind(self, field: Field, packing: Packing) -> Stepper:
        """Not possible: raises `GradientError`."""
        no_steps(self.name)


def boxed(solver: object) -> Solver | None:
    """`solver` in the place of a solver if it is a black box, else None.

    Raises:
        InputTypeError: for the class of a black box instead of an instance.
    """
    if isinstance(solver, Boxed):
        return solver
    if callable(getattr(solver, "bind", None)) or not callable(getattr(solver, "integrate", None)):
        return None
    if isinstance(solver, type):
        hint = f"Write `{solver.__name__}()`."
        raise InputTypeError("solver", f"the class {solver.__name__}", "an instance", hint)
    return Boxed(solver)  # type: ignore[arg-type]


def no_steps(name: str) -> NoReturn:
    """Raise the error of an adjoint that looks into the steps of a black box."""
    raise GradientError(
        f"{name} is a black box: its steps cannot be recorded or replayed. Leave `adjoint` out or "
        "use `adjoint=Backsolve()`, which solves an ODE for the gradient."
    )
