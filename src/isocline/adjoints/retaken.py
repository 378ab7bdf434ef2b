"""The accepted steps of a solve taken once more, all in one graph that autograd records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..integrate import Clock, Saver
from ..problem import TimeTensors
from ..solvers.base import Memory
from .base import stacked
from .replay import Replay

__all__ = ["retaken"]


def retaken(replay: Replay, start: Sequence[Tensor | None]) -> tuple[Tensor, Tensor, Tensor]:
    """The answer of `Replay.forward`, bit for bit, with a graph.

    Where steps begin and end, and what the method settled on in each, are constants.

    Args:
        replay: recorded the steps.
        start: y0, t0, t1 and ts, with a graph; no times where no gradient of one is wanted.
    """
    y0, *given = start
    assert y0 is not None
    tensors = [time for time in given if time is not None]
    times = TimeTensors(*tensors) if tensors else None
    known = zip(replay.problem.times or (), tensors, strict=True)
    named = {id(time): tensor for time, tensor in known}
    problem = replace(replay.problem, y0=y0, times=times)
    clock = Clock(problem, replay.plan.ts, times)
    saver = Saver(problem, replay.plan, clock)
    y, memory = y0, replay.stepper.init(clock.time(problem.t0), y0).essential
    rows, starts, slopes = [*saver.initial(y0)], [], []
    for taken in replay.steps:
        reach, memory = taken.reach, memory._replace(numbers=_renamed(taken.numbers, named))
        step = replay.stepper.advance(clock.time(reach.t), clock.time(reach.t_next), y, memory)
        rows += saver.rows(reach, step)
        if replay.bases:
            starts.append(y)
            slopes.append(step.dense().slopes)
        y, memory = step.y1, Memory(None, step.memory.carried)
    if not starts:
        empty = y0.new_empty(0)
        return stacked(rows, y0), empty, empty
    return stacked(rows, y0), torch.stack(starts), torch.cat(slopes)


def _renamed(numbers: Any, times: dict[int, Tensor]) -> Any:
    """What a method remembers on the host, with the tensors that stand for times exchanged."""
    if isinstance(numbers, Tensor):
        return times.get(id(numbers), numbers)
    if not isinstance(numbers, tuple):
        return numbers
    parts = [_renamed(part, times) for part in numbers]
    return type(numbers)(*parts) if hasattr(numbers, "_fields") else tuple(parts)
