"""Errors of isocline, all under `IsoclineError`.

`InputError` and its kin derive from the built-in error a caller would catch for the same fault
(`ValueError`, `TypeError`), so `except ValueError` works too. A solve that could not finish
raises a `SolveError`, which carries what was computed up to that point. The one warning is a
`GradientWarning`: the gradient is there, but should not be trusted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .solution import Solution

__all__ = [
    "CompileWarning",
    "GradientError",
    "GradientWarning",
    "InputError",
    "InputTypeError",
    "IsoclineError",
    "MaxStepsError",
    "MissingLibraryError",
    "NonFiniteError",
    "SolveError",
    "StepUnderflowError",
    "UnsolvedStepError",
]


class IsoclineError(Exception):
    """Base of every error that isocline raises on purpose."""


class CompileWarning(UserWarning):
    """A solve was to be compiled and runs uncompiled; the message says why and what to change."""


class InputError(IsoclineError, ValueError):
    """An argument has a wrong value: the message names it, what was given, what is expected."""

    def __init__(self, argument: str, given: str, expected: str, remedy: str = "") -> None:
        self.argument = argument
        text = f"`{argument}`: given {given}; expected {expected}."
        super().__init__(f"{text} {remedy}" if remedy else text)


class InputTypeError(InputError, TypeError):
    """An argument has a wrong type."""


class MissingLibraryError(IsoclineError, ImportError):
    """An optional library is not installed; the message says how to install it."""


class GradientError(IsoclineError, RuntimeError):
    """A gradient was asked for that cannot be computed; returning zero would be a lie."""


class GradientWarning(UserWarning):
    """A gradient was computed that may be far from the true one; the message says how far."""


class SolveError(IsoclineError, RuntimeError):
    """The solve stopped before `t1`. `solution` holds what was computed, `time` where it stopped.

    `samples` are the indices (leading dimension of the state) of the samples at fault, where
    they are known. `solution` is None when a reverse solve in the backward pass failed.
    """

    def __init__(
        self,
        message: str,
        *,
        time: float,
        samples: tuple[int, ...] = (),
        solution: Solution | None = None,
    ) -> None:
        super().__init__(message)
        self.time = time
        self.samples = samples
        self.solution = solution


class MaxStepsError(SolveError):
    """The limit on steps was reached before `t1`."""


class StepUnderflowError(SolveError):
    """The tolerance asked for a step too small to move the time, or below `min_step`."""


class NonFiniteError(SolveError):
    """The state or its derivative became NaN or infinite, however small the step."""


class UnsolvedStepError(SolveError):
    """The equations of an implicit step have no solution that Newton's method could find."""
