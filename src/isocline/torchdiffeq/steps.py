"""The dictionary `options`, in isocline's terms: a solver, a controller, the first step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..controllers import PID, Constant
from ..controllers.base import Controller
from ..errors import InputError, InputTypeError
from ..solvers.base import Solver
from ..solvers.external import BlackBox, boxed
from ..state import State
from .errors import ArgumentError
from .methods import Method
from .sides import EVERYWHERE, NOWHERE, Jumps, Sides
from .watching import Attended, Callbacks, Governed

__all__ = ["Asked", "Steps", "steps_of"]

_UNLIMITED = 2**31 - 1
_EVENT_STEPS = 20_000
"""Steps of a fixed-step method after which an event is given up, as in torchdiffeq."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be solved, as far as options depend on it.

    Attributes:
        func, y0: as the user gave them.
        t: output times.
        rtol, atol: tolerances as `isocline.solve` takes them.
        until_event: whether an event ends the solve, wherever t ends.
        times: the output times as numbers.
    """

    func: Callable[..., Any]
    y0: State
    t: Tensor
    rtol: Any
    atol: Any
    until_event: bool = False
    times: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        times = tuple(self.t.detach().to(torch.float64).tolist())
        object.__setattr__(self, "times", times)

    @property
    def direction(self) -> int:
        """+1 where time rises, -1 where it falls."""
        return 1 if self.times[-1] >= self.times[0] else -1

    def reversed(self) -> Asked:
        """The same for the reverse solve."""
        return replace(self, t=self.t.detach().flip(0))


@dataclass(frozen=True, slots=True)
class Steps:
    """How a solve steps.

    Attributes:
        solver: the method.
        controller: chooses steps; None for a black box.
        dt0: first step; None to have it chosen.
        max_steps: limit on attempted steps.
        jumps: times at which the field jumps.
    """

    solver: Solver | BlackBox
    controller: Controller | None
    dt0: float | None
    max_steps: int
    jumps: Jumps = NOWHERE

    def attended(
        self, sides: Sides | None, callbacks: Callbacks | None, direction: int
    ) -> tuple[Solver | BlackBox, Controller | None]:
        """Solver and controller, wrapped if anything is to be told of their doings."""
        solver, controller = self.solver, self.controller
        if controller is None or boxed(solver) is not None:
            return solver, controller
        if sides is not None or callbacks is not None:
            solver = Attended(solver, sides, self.jumps, callbacks, direction)  # type: ignore[arg-type]
        if callbacks is not None or controller.min_step > 0:
            controller = Governed(controller, callbacks)
        return solver, controller


def steps_of(method: Method, options: Mapping[str, Any], asked: Asked) -> Steps:
    """Options in isocline's terms; warns of those that the method does not know.

    Raises:
        InputError: for an option that cannot be followed.
    """
    unknown = method.unknown(options)
    if unknown:
        warnings.warn(f"{method.name}: Unexpected arguments {unknown}", stacklevel=4)
    settings = {name: value for name, value in options.items() if name not in unknown}
    solver = method.make({**settings, "rtol": asked.rtol, "atol": asked.atol})
    if method.boxed:
        return Steps(solver, None, None, _UNLIMITED)
    return (_adaptive if method.adaptive else _fixed)(solver, settings, asked)


def _adaptive(solver: Solver | BlackBox, options: Mapping[str, Any], asked: Asked) -> Steps:
    stops, jumps = _times(options, "step_t"), _times(options, "jump_t")
    if len({*stops, *jumps}) < len(stops) + len(jumps):
        given = f"{stops} and {jumps}"
        expected = "`step_t` and `jump_t` without repeated elements between them"
        raise InputError("options['step_t'], options['jump_t']", given, expected)
    controller = PID(
        safety=_number(options, "safety", 0.9),
        factor_max=max(_number(options, "ifactor", 10.0), math.nextafter(1.0, 2.0)),
        factor_min=min(_number(options, "dfactor", 0.2), math.nextafter(1.0, 0.0)),
        min_step=_number(options, "min_step", 0.0),
        max_step=_number(options, "max_step", math.inf),
        stops=(*stops, *jumps),
    )
    first = options.get("first_step")
    # torchdiffeq counts the steps between two output times.
    limit = int(_number(options, "max_num_steps", _UNLIMITED)) * max(1, len(asked.t) - 1)
    return Steps(
        solver,
        controller,
        None if first is None else abs(_number(options, "first_step", 0.0)),
        limit,
        frozenset(jumps),
    )


def _fixed(solver: Solver | BlackBox, options: Mapping[str, Any], asked: Asked) -> Steps:
    interp = options.get("interp", "linear")
    if interp not in ("linear", "cubic"):
        raise InputError("options['interp']", repr(interp), "'linear' or 'cubic'")
    jumps = EVERYWHERE if options.get("perturb", False) else NOWHERE
    if asked.until_event:
        if options.get("step_size") is None:
            expected = "a step_size, for event handling with a method of fixed steps"
            raise ArgumentError("options['step_size']", "None", expected)
        return Steps(solver, Constant(), _step_size(options), _EVENT_STEPS, jumps)
    grid = _grid(options, asked)
    span = abs(grid[-1] - grid[0])
    return Steps(solver, Constant(stops=grid), span, _UNLIMITED, jumps)


def _grid(options: Mapping[str, Any], asked: Asked) -> tuple[float, ...]:
    """The ends of all steps."""
    constructor = options.get("grid_constructor")
    if options.get("step_size") is not None:
        if constructor is not None:
            given, expected = "both", "one of the two: they are mutually exclusive"
            raise InputError("options['step_size'], options['grid_constructor']", given, expected)
        return _even_grid(_step_size(options), asked)
    if constructor is None:
        return asked.times
    name = "options['grid_constructor']"
    made = constructor(asked.func, asked.y0, asked.t)
    if not isinstance(made, Tensor) or made.ndim != 1:
        shown = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        raise InputTypeError(name, f"a function that returns {shown}", "a tensor of shape (steps,)")
    grid = tuple(made.detach().to(asked.t).to(torch.float64).tolist())
    if not grid or (grid[0], grid[-1]) != (asked.times[0], asked.times[-1]):
        ends = f"a grid from {grid[0]} to {grid[-1]}" if grid else "an empty grid"
        expected = f"a grid from t[0] = {asked.times[0]} to t[-1] = {asked.times[-1]}"
        raise ArgumentError(name, ends, expected)
    sign = asked.direction
    if any(sign * b <= sign * a for a, b in pairwise(grid)):
        raise ArgumentError(name, "times out of order", "times in the order of t")
    return grid


def _even_grid(step: float, asked: Asked) -> tuple[float, ...]:
    """From t[0] on by `step`, in the direction of t; the last step may be shorter."""
    start, end = asked.times[0], asked.times[-1]
    ratio = abs(end - start) / step
    # Times of lower precision put the end a little beyond a whole number of steps.
    count = max(1, math.ceil(ratio * (1.0 - 4.0 * torch.finfo(asked.t.dtype).eps)))
    return (*(start + asked.direction * step * k for k in range(count)), end)


def _step_size(options: Mapping[str, Any]) -> float:
    step = _number(options, "step_size", 0.0)
    if not 0.0 < step < math.inf:
        raise InputError("options['step_size']", str(step), "a positive length")
    return step


def _number(options: Mapping[str, Any], name: str, default: float) -> float:
    """An option that is a number or a tensor of one element."""
    value = options.get(name, default)
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        raise InputTypeError(f"options[{name!r}]", type(value).__name__, "a number") from None


def _times(options: Mapping[str, Any], name: str) -> tuple[float, ...]:
    """An option that is a tensor or a sequence of times."""
    value = options.get(name)
    if value is None:
        return ()
    try:
        return tuple(torch.as_tensor(value).detach().to(torch.float64).reshape(-1).tolist())
    except (TypeError, ValueError, RuntimeError):
        expected = "a tensor of times"
        raise InputTypeError(f"options[{name!r}]", type(value).__name__, expected) from None
