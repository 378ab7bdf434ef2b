"""torchdiffeq's four functions, each a thin call of `isocline.solve`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..problem import SaveAt
from ..state import State
from .solving import EventFunction, Task, alone, sides_of
from .until import until_event

__all__ = ["odeint", "odeint_dense", "odeint_event"]


def odeint(
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: EventFunction | None = None,
) -> Any:
    """Solve dy/dt = func(t, y) from y(t[0]) = y0, with the exact gradient of the discrete solve.

    Args:
        func: `func(t, y) -> dy/dt`; t is a 0-d tensor, y is like y0.
        y0: a tensor of any shape, or a tuple of tensors.
        t: output times, floating-point, shape (T,), strictly increasing or decreasing; may
            require grad.
        rtol, atol: tolerances: numbers, tensors that broadcast against y0, or one of these for
            each entry of a tuple.
        method: a name of `SOLVERS`; "dopri5" by default.
        options: by name, as torchdiffeq documents them; and `"stepping": "per_sample"`, for each
            sample of the batch to go at its own pace (explicit Runge-Kutta methods). Then t has
            the shape (samples,), func is asked about some of the samples at a time, and "norm"
            gives a number for each of them.
        event_fn: `event_fn(t, y) -> Tensor`. The solve goes on, beyond t[1] if need be, until one
            of its elements is zero. Then t has two times, of which the second gives the
            direction.

    Returns:
        States at the times t, shape (T, ...), for a tuple a tuple of those. With `event_fn`, the
        time of the event, and the states at t[0] and there.

    Raises:
        ValueError, TypeError, AssertionError: for a wrong argument (all are `InputError`s), as
            torchdiffeq raises them.
        AssertionError: where the solve fails (all are `SolveError`s).
    """
    task = Task.of(func, y0, t, rtol, atol, method, options, event_fn)
    steps = task.steps()
    sides = sides_of(steps)
    if event_fn is not None:
        return until_event(task, steps, sides, task.adjoint())
    if len(t) == 1:
        return alone(y0)
    return task.solution(steps, sides, task.adjoint(), save=SaveAt(ts=t)).ys


def odeint_dense(
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t0: float | Tensor,
    t1: float | Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[[Any], Any]:
    """Solve from t0 to t1, and return the solution as a function of time.

    Args:
        func, y0, rtol, atol, method, options: as for `odeint`.
        t0, t1: span, numbers or 0-d tensors.

    Returns:
        A function of a time in the span, or of a vector of them: the state there, from the
        method's own interpolant, differentiable in all that the solve depends on.

    Raises:
        ValueError, TypeError, AssertionError: as `odeint`.
    """
    t = torch.stack([torch.as_tensor(t0).reshape(()), torch.as_tensor(t1).reshape(())])
    task = Task.of(func, y0, t, rtol, atol, method, options)
    steps = task.steps()
    return task.solution(steps, sides_of(steps), task.adjoint(), save=SaveAt(dense=True))


def odeint_event(
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t0: Tensor,
    *,
    event_fn: EventFunction,
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """Solve from t0 until an element of `event_fn(t, y)` is zero.

    Args:
        func, y0: as for `odeint`.
        t0: the start, a tensor of one element; may require grad.
        event_fn: `event_fn(t, y) -> Tensor`.
        reverse_time: whether to go backward in time.
        odeint_interface: `odeint` or `odeint_adjoint`.
        **kwargs: handed on to it.

    Returns:
        The time of the event and the states at t0 and there, each leaf of shape (2, ...). Both
        carry gradients with respect to y0, t0, and what `func` and `event_fn` depend on.

    Raises:
        ValueError, TypeError, AssertionError: as `odeint`.
    """
    start = torch.as_tensor(t0).reshape(-1)
    end = start.detach() + (-1.0 if reverse_time else 1.0)
    found: tuple[Tensor, Any] = odeint_interface(
        func, y0, torch.cat([start, end]), event_fn=event_fn, **kwargs
    )
    return found
