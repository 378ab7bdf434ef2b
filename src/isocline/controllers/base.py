"""The protocol of a step controller: it sees one error ratio and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ..errors import InputError, InputTypeError

__all__ = ["Controller", "Decision", "StepBounds", "check_numbers"]


class Decision(NamedTuple):
    """A controller's answer: take the step or not, the next step's length, its own memory."""

    accept: bool
    h: float
    state: Any


class Controller(Protocol):
    """Chooses the lengths of steps. Lengths are positive floats in either direction of time."""

    @property
    def adaptive(self) -> bool:
        """Whether `decide` needs an error ratio (else it is given 0)."""

    @property
    def min_step(self) -> float:
        """A step that fails at this length or below ends the solve."""

    @property
    def max_step(self) -> float:
        """No step is longer."""

    @property
    def stops(self) -> tuple[float, ...]:
        """Times inside the span at which a step must end, such as jumps of the field."""

    def init(self, error_order: int) -> Any:
        """Memory before the first step, for a method whose error estimate is O(h^error_order)."""

    def decide(self, h: float, error_ratio: float, state: Any) -> Decision:
        """Judge a step of length `h` whose error is `error_ratio` times the tolerance.

        A ratio that is NaN or infinite means that the step left the field's domain.
        """


def check_numbers(settings: object, *names: str) -> None:
    """Raise `InputTypeError` unless the named attributes are real numbers, NaN excepted."""
    for name in names:
        value = getattr(settings, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or math.isnan(value):
            raise InputTypeError(name, repr(value), "a number")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepBounds:
    """Limits common to all controllers.

    Attributes:
        min_step: shortest step that may be tried again after a rejection.
        max_step: longest step.
        stops: times at which steps end exactly.
    """

    min_step: float = 0.0
    max_step: float = math.inf
    stops: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_numbers(self, "min_step", "max_step")
        try:
            object.__setattr__(self, "stops", tuple(float(stop) for stop in self.stops))
        except (TypeError, ValueError):
            raise InputTypeError("stops", repr(self.stops), "a sequence of times") from None
        if not 0 <= self.min_step <= self.max_step or self.max_step == 0:
            raise InputError(
                "min_step, max_step",
                f"{self.min_step}, {self.max_step}",
                "0 <= min_step <= max_step and max_step > 0",
            )
        if not all(map(math.isfinite, self.stops)):
            raise InputError("stops", str(self.stops), "finite times")
