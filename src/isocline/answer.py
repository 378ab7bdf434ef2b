"""From what the loop found to what the user is handed: a `Solution`, or the error of a failure."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .adjoints.base import Trajectory
from .errors import InputTypeError
from .events import Occurrence
from .integrate import DenseOutput
from .problem import Plan, Problem
from .solution import ERRORS, Solution, Statistics
from .solvers.base import Time
from .state import Packing, State, tree_describe, tree_leaves, tree_rebuild

if TYPE_CHECKING:
    from .diagnosis import Explanation

__all__ = ["failure", "reducing", "unpacked"]


def unpacked(
    problem: Problem,
    plan: Plan,
    found: Trajectory,
    stats: Statistics,
    events: tuple[Occurrence, ...],
    again: Callable[[], Explanation] | None,
) -> Solution:
    """What the loop found, in the structure of y0."""
    packing, outcome = problem.field.packing, found.outcome
    kept: list[State] = outcome.reduced
    reduce = reducing(plan, packing).reduce
    if reduce is not None and not kept and found.rows is not None:
        times = problem.traced(outcome.times, plan.ts)
        kept = [reduce(t, row) for t, row in zip(times, found.rows, strict=True)]
    if kept:
        ys = _stacked(kept)
    else:
        ys = None if found.rows is None or not len(found.rows) else packing.unpack_rows(found.rows)
    dense = None
    if plan.save.dense:
        ends = tuple(outcome.ends)
        dense = DenseOutput(found.pieces, ends, problem.t0, problem.y0, packing)
    return Solution(
        ts=_vector(outcome.times, packing.device),
        ys=ys,
        status=outcome.status,
        stats=stats,
        t_end=outcome.t_end,
        failed_samples=outcome.failed_samples,
        events=events,
        dense=dense,
        again=again,
    )


def _vector(times: list[float], device: torch.device) -> Tensor:
    """Times as a tensor; by way of an array, which is five times as fast as `torch.tensor`."""
    if not times:
        return torch.empty(0, dtype=torch.float64, device=device)
    return torch.frombuffer(array("d", times), dtype=torch.float64).to(device)


def reducing(plan: Plan, packing: Packing) -> Plan:
    """The plan with `SaveAt.fn` applied to packed states."""
    function = plan.save.fn
    if function is None:
        return plan

    def reduce(t: Time, row: Tensor) -> State:
        kept = function(torch.as_tensor(t).to(row.real), packing.unpack(row))
        if not all(isinstance(leaf, Tensor) for leaf in tree_leaves(kept)):
            given = f"a function that returns {tree_describe(kept)}"
            raise InputTypeError("save.fn", given, "a tensor or a structure of tensors")
        return kept

    return replace(plan, reduce=reduce)


def _stacked(states: list[State]) -> State:
    """A list of like structures as one structure whose leaves have a leading axis."""
    columns = zip(*(list(tree_leaves(state)) for state in states), strict=True)
    return tree_rebuild(states[0], iter([torch.stack(column) for column in columns]))


def failure(solution: Solution, packing: Packing, said: str) -> Exception:
    """The typed error of a solve that stopped early."""
    stats = solution.stats
    where = f"at t = {solution.t_end:.9g}"
    samples = ""
    if solution.failed_samples and packing.batch is not None:
        shown = ", ".join(map(str, solution.failed_samples[:5]))
        more = len(solution.failed_samples) - 5
        samples = f" in sample {shown}" + (f" and {more} more" if more > 0 else "")
    taken = f"{stats.steps_accepted} steps accepted, {stats.steps_rejected} rejected"
    message = f"the solve stopped {where}{samples} ({taken}): {solution.status.value}.{said}"
    return ERRORS[solution.status](
        message, time=solution.t_end, samples=solution.failed_samples, solution=solution
    )
