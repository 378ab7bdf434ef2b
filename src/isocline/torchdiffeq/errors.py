"""Errors of the drop-in: isocline's own that are torchdiffeq's too, for code that catches these.

torchdiffeq checks with `assert`, so code written for it catches `AssertionError`: for a bad
argument, for "underflow in dt", for "max_num_steps exceeded".
"""

from __future__ import annotations

from ..errors import (
    InputError,
    InputTypeError,
    MaxStepsError,
    NonFiniteError,
    SolveError,
    StepUnderflowError,
)

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "MaxNumStepsError",
    "NotFiniteError",
    "UnderflowError",
    "as_theirs",
]


class ArgumentError(InputError, AssertionError):
    """A wrong value where torchdiffeq asserts."""


class ArgumentTypeError(InputTypeError, AssertionError):
    """A wrong type where torchdiffeq asserts."""


class MaxNumStepsError(MaxStepsError, AssertionError):
    """`max_num_steps` was reached."""


class UnderflowError(StepUnderflowError, AssertionError):
    """The step became too small."""


class NotFiniteError(NonFiniteError, AssertionError):
    """The state or its derivative became NaN or infinite; torchdiffeq may call it an underflow."""


_THEIRS: tuple[tuple[type[SolveError], type[SolveError], str], ...] = (
    (MaxStepsError, MaxNumStepsError, "max_num_steps exceeded"),
    (StepUnderflowError, UnderflowError, "underflow in dt"),
    (NonFiniteError, NotFiniteError, "non-finite values in state `y`"),
)
"""Our errors, their counterparts here, and the words that torchdiffeq has for them."""


def as_theirs(error: SolveError) -> SolveError:
    """The same failure as an error that is an `AssertionError` too, with torchdiffeq's words."""
    for ours, theirs, words in _THEIRS:
        if isinstance(error, ours):
            return theirs(
                f"{words}: {error}",
                time=error.time,
                samples=error.samples,
                solution=error.solution,
            )
    return error
