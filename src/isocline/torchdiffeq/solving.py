"""From torchdiffeq's arguments to calls of `isocline.solve`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._solve import solve
from ..adjoints import Adjoint, Backsolve, Direct
from ..errors import GradientError, InputError, SolveError
from ..solution import Solution
from ..state import Packing, State
from .any_order import AnyOrder, for_transforms
from .errors import as_theirs
from .fields import as_field
from .inputs import check_state, check_times, tolerance
from .methods import Method, find_method
from .norms import state_norm
from .sides import NOWHERE, Sides
from .steps import Asked, Steps, steps_of
from .watching import Callbacks

__all__ = ["EventFunction", "Task", "alone", "check_apart", "sides_of"]

EventFunction = Callable[[Tensor, State], Tensor]
"""`event_fn(t, y)`, whose first zero ends a solve."""


@dataclass(frozen=True, slots=True)
class Task:
    """A call of the drop-in, checked.

    Attributes:
        asked: what is to be solved.
        method: the method, by torchdiffeq's name.
        options: as the user gave them.
        event_fn: ends the solve, or None.
        parameters: tensors that the field is to get a gradient for, besides those that it shows.
    """

    asked: Asked
    method: Method
    options: Mapping[str, Any]
    event_fn: EventFunction | None = None
    parameters: tuple[Tensor, ...] = field(default=())

    @classmethod
    def of(
        cls,
        func: Callable[..., Any],
        y0: Any,
        t: Any,
        rtol: Any,
        atol: Any,
        method: str | None,
        options: Mapping[str, Any] | None,
        event_fn: EventFunction | None = None,
        parameters: tuple[Tensor, ...] = (),
    ) -> Task:
        """The task, after checking what torchdiffeq checks.

        Raises:
            InputError: naming what is wrong.
        """
        y0, found, t = check_state(y0), find_method(method), check_times(t)
        if event_fn is not None and len(t) != 2:
            raise InputError("t", f"{len(t)} times", "len(t) == 2 in event handling mode")
        tolerances = tolerance("rtol", rtol, y0), tolerance("atol", atol, y0)
        asked = Asked(func, y0, t, *tolerances, until_event=event_fn is not None)
        return cls(asked, found, dict(options or {}), event_fn, parameters)

    @property
    def apart(self) -> bool:
        """Whether each sample of the batch goes at its own pace, which torchdiffeq cannot."""
        stepping = self.options.get("stepping", "joint")
        if stepping not in ("joint", "per_sample"):
            raise InputError("options['stepping']", repr(stepping), '"joint" or "per_sample"')
        return bool(stepping == "per_sample")

    def steps(self) -> Steps:
        """How the solve steps; warns of options that the method does not know."""
        return steps_of(self.method, self.options, self.asked)

    def callbacks(self) -> Callbacks | None:
        """What func wants to be told of the steps, if anything."""
        method, func = self.method, self.asked.func
        return Callbacks.of(func, method.name, method.callbacks, Packing.unpack, stacklevel=5)

    def adjoint(self) -> Adjoint | None:
        """How the plain functions differentiate this solve; None for the default."""
        if self.method.own:
            return Direct()  # nothing is known of what its steps keep
        return None if self.method.boxed or self.apart else for_transforms(AnyOrder())

    def solution(
        self, steps: Steps, sides: Sides | None, adjoint: Adjoint | None, **what: Any
    ) -> Solution:
        """The answer of `isocline.solve`.

        Args:
            steps: how to step.
            sides: keeps the field off jumps, or None.
            adjoint: how to differentiate; None for the default.
            what: further arguments of `solve`.

        Raises:
            InputError: for what cannot be had where each sample goes at its own pace.
            SolveError: that is an `AssertionError` too, where torchdiffeq raises one.
        """
        asked = self.asked
        seen = self.callbacks()
        if self.apart:
            check_apart(self, steps, seen)
            what["stepping"] = "per_sample"
        solver, controller = steps.attended(sides, seen, asked.direction)
        far = asked.direction * math.inf
        end = asked.t[-1] if self.event_fn is None else far
        norm = self.options.get("norm")
        if not self.apart:  # there a norm gives one number for each sample
            norm = None if self.method.boxed else state_norm(norm, asked.y0)
        if sides is not None:  # the field is looked at before the first step
            sides.enter(asked.times[0], far, steps.jumps)
        func = as_field(asked.func, asked.y0, sides)

        def go(adjoint: Adjoint | None) -> Solution:
            return solve(
                func,
                asked.y0,
                asked.t[0],
                end,
                args=self.parameters,
                solver=solver,
                rtol=asked.rtol,
                atol=asked.atol,
                controller=controller,
                dt0=steps.dt0,
                norm=norm,
                max_steps=steps.max_steps,
                adjoint=adjoint,
                **what,
            )

        try:
            return go(adjoint) if self.method.boxed else _for_any_field(go, adjoint)
        except SolveError as error:
            raise as_theirs(error) from None


def check_apart(task: Task, steps: Steps, seen: Callbacks | None, of: str = "") -> None:
    """Refuse what joint stepping alone can do.

    Args:
        task: what is solved, or solved in reverse.
        steps: how.
        seen: callbacks of func.
        of: "adjoint_" for the reverse solve, as the names of its arguments begin.

    Raises:
        InputError: naming what is to be left out.
    """
    controller = steps.controller
    refused = {
        f"{of}method={task.method.name!r}": controller is None,
        "event_fn": task.event_fn is not None,
        "the callbacks of func": seen is not None,
        f"{of}options['jump_t'], {of}options['perturb']": steps.jumps != NOWHERE,
        f"{of}options['min_step']": controller is not None and controller.min_step > 0,
    }
    for name, given in refused.items():
        if given:
            hint = "`isocline.solve` has events of each sample." if name == "event_fn" else ""
            expected = "it left out, or joint stepping"
            raise InputError(name, 'one with options={"stepping": "per_sample"}', expected, hint)


def _for_any_field(go: Callable[[Adjoint | None], Solution], adjoint: Adjoint | None) -> Solution:
    """Solve, also where the field draws random numbers, which only `Direct` can differentiate.

    A field that draws its noise at the first evaluation and keeps it, as those of FFJORD do, has
    it by the second attempt.
    """
    for _ in range(2):
        try:
            return go(adjoint)
        except GradientError as error:
            reason = str(error)
    if isinstance(adjoint, Backsolve):
        warnings.warn(
            f"differentiated through the solver's operations, not by a reverse solve: {reason}",
            stacklevel=5,
        )
    return go(Direct())


def sides_of(*steps: Steps) -> Sides | None:
    """What keeps the field off jumps, if any of the solves knows of some."""
    return Sides() if any(one.jumps != NOWHERE for one in steps) else None


def alone(y0: State) -> State:
    """The answer for one time: the initial state, with an axis in front."""
    if isinstance(y0, Tensor):
        return torch.stack([y0])
    return tuple(torch.stack([leaf]) for leaf in y0)
