"""Events: where along a solution something happens, and what is to be done there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from .errors import InputError, InputTypeError
from .state import State, tree_describe

__all__ = ["Event", "Occurrence", "PackedEvent", "SampleEvents", "check_events", "check_values"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens where a function of time and state passes through zero.

    It is looked for along the interpolant of every accepted step, also where the function passes
    through zero and back within one step, and found to `tolerance`. A function that is zero at
    t0 has not passed through zero there: what counts is its sign right after the start.

    Attributes:
        condition: `condition(t, y, *args)` -> a real floating-point tensor of any shape, the same
            at all times; each of its elements is watched. `args` are those of the field. Need not
            be differentiable, unless a gradient of the event's time or state is asked for.
        handler: `handler(t, y, *args)` -> the state with which the solve goes on, such as a
            velocity reversed. Gradients flow through it. It is called once, however many elements
            pass through zero at that time; of several events at one time each handler is given
            what the one before returned. None leaves the state as it is.
        terminal: which occurrence ends the solve: 1 (or True) for the first, n for the n-th, 0
            (or False) for none. None means 1 without a handler, and 0 with one. The state that
            the solve ends with is that before the handler.
        direction: +1 for passages from below zero to above as the solve goes on (whichever way
            time runs), -1 for those from above to below, 0 for both.
        tolerance: to which the time is found along the interpolant, in units of t; None for as
            fine as double precision resolves it.

    Raises:
        InputError: for a setting that means nothing.
    """

    condition: Callable[..., Tensor]
    handler: Callable[..., State] | None = None
    terminal: int | None = None
    direction: int = 0
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if not callable(self.condition):
            given = type(self.condition).__name__
            raise InputTypeError("event.condition", given, "a function condition(t, y, *args)")
        if self.handler is not None and not callable(self.handler):
            given = type(self.handler).__name__
            raise InputTypeError("event.handler", given, "a function handler(t, y, *args), or None")
        terminal: Any = self.terminal
        if terminal is not None and (not isinstance(terminal, int) or terminal < 0):
            given = repr(terminal)
            raise InputError("event.terminal", given, "the number of an occurrence, or 0 for none")
        if self.direction not in (-1, 0, 1):
            raise InputError("event.direction", repr(self.direction), "-1, 0 or 1")
        tolerance: Any = self.tolerance
        if tolerance is not None and not (isinstance(tolerance, (int, float)) and tolerance > 0):
            raise InputError("event.tolerance", repr(tolerance), "a positive time, or None")

    @property
    def last(self) -> int:
        """The number of the occurrence that ends the solve, 0 for none."""
        if self.terminal is None:
            return 0 if self.handler is not None else 1
        return int(self.terminal)


@dataclass(frozen=True, slots=True)
class Occurrence:
    """An event that took place.

    Attributes:
        event: index of the event among those given to `solve`.
        element: which element of the condition, flattened, passed through zero.
        t: when, a 0-d float64 tensor on the host. It carries a gradient where one was asked for:
            with respect to all that the solution depends on, and to what the condition uses.
        y: the state there, structured like y0, before the handler. Its gradient counts that the
            time moves.
    """

    event: int
    element: int
    t: Tensor
    y: State


@dataclass(frozen=True, slots=True)
class SampleEvents:
    """The events of a solve in which each sample had its own steps: one row each.

    They are sorted by sample, and by the order of its solve.

    Attributes:
        samples: whose they are, shape (events,).
        events: indices among the events given to `solve`, shape (events,).
        elements: which elements of the conditions passed through zero, of those of one sample.
        t: when, shape (events,), float64. It carries a gradient, as in `Occurrence`.
        y: the states there, before the handlers, structured like y0.
    """

    samples: Tensor
    events: Tensor
    elements: Tensor
    t: Tensor
    y: State


class PackedEvent(NamedTuple):
    """An event as the loop sees it.

    Attributes:
        condition: `(0-d t, packed y)` -> values, shape (elements,).
        direction, tolerance: as in `Event`.
        stops: whether each occurrence interrupts the loop, for its handler.
        left: how many occurrences there may still be, the last of which ends the solve; 0 for
            any number.
        fired: elements that took place where this solve begins, and what was left of each there.
    """

    condition: Callable[[Tensor, Tensor], Tensor]
    direction: int
    tolerance: float | None
    stops: bool
    left: int
    fired: Mapping[int, float] = MappingProxyType({})


def check_values(found: Any) -> Tensor:
    """What a condition returned, shape (elements,).

    Raises:
        InputTypeError: unless it is a real floating-point tensor.
        InputError: if it has no elements.
    """
    if not isinstance(found, Tensor) or not found.is_floating_point():
        hint = "A Python number has lost the gradient: leave out `.item()` and `float()`."
        raise InputTypeError(
            "event.condition",
            f"output {tree_describe(found)}",
            "a real floating-point tensor, whose sign tells before from after",
            hint if isinstance(found, float) else "",
        )
    if not found.numel():
        given = f"output of shape {tuple(found.shape)}"
        raise InputError("event.condition", given, "some elements")
    return found.reshape(-1)


def check_events(
    event: Event | Callable[..., Tensor] | Sequence[Any] | None,
) -> tuple[Event, ...]:
    """The events that were given, one or several; a bare condition ends the solve.

    Raises:
        InputTypeError: for what is neither an event, nor a condition, nor a sequence of those.
    """
    if event is None:
        return ()
    given = event if isinstance(event, (tuple, list)) else [event]
    return tuple(_as_events(given))


def _as_events(given: Sequence[Any]) -> Iterator[Event]:
    for one in given:
        if isinstance(one, Event):
            yield one
        elif callable(one) and not isinstance(one, type):
            yield Event(one)
        else:
            shown = one.__name__ if isinstance(one, type) else type(one).__name__
            raise InputTypeError("event", shown, "an Event, a condition(t, y), or a list of them")
