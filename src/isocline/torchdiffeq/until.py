"""Solves that end at an event, whose time and state carry gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..adjoints import Adjoint
from ..events import Event
from ..state import State
from .sides import Sides
from .solving import EventFunction, Task
from .steps import Steps

__all__ = ["until_event"]

_BEYOND = 1e-30
"""How far beyond zero a zero is: nothing beside other values, but of the other sign."""


def until_event(
    task: Task, steps: Steps, sides: Sides | None, adjoint: Adjoint | None
) -> tuple[Tensor, State]:
    """Solve until an element of `event_fn(t, y)` is zero.

    Returns:
        The time, 0-d in the dtype of t, and the states at the start and there, each leaf of shape
        (2, ...). Both carry gradients, which count that the time moves.
    """
    asked, event_fn = task.asked, task.event_fn
    assert event_fn is not None
    t, y = _at_start(task, event_fn) or _on_the_way(task, event_fn, steps, sides, adjoint)
    if isinstance(asked.y0, Tensor):
        return t, torch.stack([asked.y0, y])
    return t, tuple(torch.stack(pair) for pair in zip(asked.y0, y, strict=True))


def _on_the_way(
    task: Task,
    event_fn: EventFunction,
    steps: Steps,
    sides: Sides | None,
    adjoint: Adjoint | None,
) -> tuple[Tensor, State]:
    asked = task.asked
    with torch.no_grad():
        signs = torch.as_tensor(event_fn(asked.t[0], asked.y0)).reshape(-1).sign()

    def condition(t: Tensor, y: State, *_: Any) -> Tensor:
        value = torch.as_tensor(event_fn(t, y)).reshape(-1)
        # Zero counts as the other side: a function may come to be zero at once and stay so.
        return value - _BEYOND * signs * (value.detach() == 0)

    found = task.solution(steps, sides, adjoint, event=Event(condition))
    first = found.events[0]
    return first.t.to(asked.t), first.y


def _at_start(task: Task, event_fn: EventFunction) -> tuple[Tensor, State] | None:
    """The event, if it is at t[0] already: isocline's own events would wait for the next zero.

    Its time moves as that of any event: by what moves g(t, y(t)) there, over the rate of g along
    the solution.
    """
    t0, y0 = task.asked.t[0], task.asked.y0
    single = isinstance(y0, Tensor)
    leaves = (y0,) if single else y0

    def value(t: Tensor, *leaves: Tensor) -> Tensor:
        return torch.as_tensor(event_fn(t, leaves[0] if single else leaves)).reshape(-1)

    with torch.no_grad():
        zeros = (value(t0, *leaves) == 0).nonzero().flatten().tolist()
    if not zeros:
        return None
    start = t0.detach()
    with torch.no_grad():
        found = task.asked.func(start, y0)
    pairs = zip((found,) if single else found, leaves, strict=True)
    slopes = [k.reshape(leaf.shape) for k, leaf in pairs]

    def moved_by(time: Tensor) -> list[Tensor]:
        return [x + k * time.to(x.real) for x, k in zip(leaves, slopes, strict=True)]

    gap = value(start, *moved_by(start - t0))[zeros[0]]
    rate = _rate(lambda *at: value(*at)[zeros[0]], [start, *leaves], [torch.ones_like(t0), *slopes])
    t = start - gap.to(t0) / rate.to(t0) if rate != 0 else start
    state = moved_by(t - t0)
    return t, state[0] if single else tuple(state)


def _rate(value: Callable[..., Tensor], at: list[Tensor], along: list[Tensor]) -> Tensor:
    """The rate of change of a scalar function at a point, along a direction."""
    with torch.enable_grad():
        point = [x.detach().requires_grad_() for x in at]
        found = value(*point)
    if not found.requires_grad:
        return torch.zeros_like(found)
    gradient = torch.autograd.grad(found, point, allow_unused=True, materialize_grads=True)
    parts = zip(gradient, along, strict=True)
    products = [torch.vdot(g.reshape(-1), k.to(g).reshape(-1)).real for g, k in parts]
    return torch.stack([product.to(found) for product in products]).sum()
