"""What a multistep method knows of the past: when slopes were taken, and which of them serve."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...transforms import tracked
from ..base import Time
from .coefficients import Shape, known_weights, weights

__all__ = ["History", "nodes", "spread", "step_weights", "traced"]

_CLOSEST = 32
"""Of two slopes nearer to each other than their distance from the present over this, one serves."""

_ULPS = 32
"""Constant steps leave times that are off their grid by so many units in the last place at most."""


class History(NamedTuple):
    """`Memory.numbers` of a multistep method.

    Attributes:
        times: when the slopes in `Memory.carried` were taken, newest first. They may be fewer.
            One that is a tensor is a time whose gradient is wanted: the weights depend on it.
        order: how many slopes, with the present one, the next step is to use.
        failures: how often the step that starts here was rejected.
    """

    times: tuple[Time, ...]
    order: int
    failures: int = 0


def spread(times: Sequence[Time], t: Time, t_next: Time) -> list[int]:
    """Which of the past times serve as nodes for a step: those that do not crowd.

    The weights of two slopes taken at almost the same time are large and of opposite sign, and
    magnify rounding. A step cut short at a stop leaves such a pair, and a step that grows fast
    leaves many. Constant steps of any order up to 13 keep all nodes.
    """
    now = _host(t)
    least = abs(_host(t_next) - now)
    last = 0.0
    kept: list[int] = []
    for i, time in enumerate(times):
        age = abs(now - _host(time))
        if (age - last) * _CLOSEST >= (age if age > least else least):
            kept.append(i)
            last = age
    return kept


def nodes(times: Sequence[Time], t: Time, t_next: Time) -> list[float]:
    """The end, the present and past times in steps from the present, as floats."""
    now = _host(t)
    h = _host(t_next) - now
    return [1.0, 0.0, *[(_host(time) - now) / h for time in times]]


def step_weights(times: Sequence[Time], t: Time, t_next: Time, shape: Shape) -> Tensor:
    """Weights for a step from t to t_next, h included; with a graph where a time records one.

    Args:
        times: when the slopes of the history were taken, that at t apart.
        shape: which formulas.
    """
    z = nodes(times, t, t_next)
    whole = _on_grid(z, t, t_next)
    if whole is None:
        found = weights(torch.tensor(z, dtype=torch.float64), shape)
    else:
        found = known_weights(whole, shape)
    moved = traced(lambda moving: weights(moving, shape), times, t, t_next)
    return found * (t_next - t) if moved is None else (found + moved) * (t_next - t)


def traced(
    function: Callable[[Tensor], Tensor], times: Sequence[Time], t: Time, t_next: Time
) -> Tensor | None:
    """Zeros that carry the graph of a function of the nodes; None where no time records one."""
    every = (t_next, t, *times)
    if not any(map(_records, every)):
        return None
    h = t_next - t
    moving = [torch.as_tensor((time - t) / h, dtype=torch.float64) for time in every]
    found = function(torch.stack(moving))
    return found - found.detach()


def _host(time: Time) -> float:
    return time.detach().item() if isinstance(time, Tensor) else time


def _records(time: Time) -> bool:
    return isinstance(time, Tensor) and tracked(time)


def _on_grid(z: Sequence[float], t: Time, t_next: Time) -> tuple[float, ...] | None:
    """Whole numbers in place of nodes that differ from them by rounding of the times alone."""
    now = _host(t)
    h = _host(t_next) - now
    allowed = min(_ULPS * math.ulp(max(abs(now), abs(now + z[-1] * h))) / abs(h), 1e-6)
    for node in z:
        if abs(node - round(node)) > allowed:
            return None
    return tuple([float(round(node)) for node in z])
