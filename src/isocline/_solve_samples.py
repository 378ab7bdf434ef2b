"""The front door's way for `stepping="per_sample"`: checks, packing by samples, and the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from .adjoints import Adjoint
from .adjoints.samples import SampleAdjoint, SampleTrajectory
from .apart import check_apart
from .controllers import Controller
from .controllers.lanes import lane_control
from .errors import InputError
from .events import SampleEvents, check_events
from .integrate import Output, SampleDense, integrate_samples
from .problem import Autocast, SaveAt, autocast_off
from .progress import progress_bar
from .samples import SampleField, SamplePlan, SampleProblem, SampleTimes, check_marked, matrix_of
from .solution import ERRORS, SampleCounts, Solution, Statistics, Status
from .solvers import Solver
from .solvers.lane_methods import lane_stepper
from .state import Packing, State, tree_leaves, tree_rebuild
from .transforms import active
from .validate import check_controller, check_finite_state, check_max_steps
from .validate_samples import (
    OutputTimes,
    check_batch,
    check_first_steps,
    check_norms,
    check_output_times,
    check_sample_times,
    check_tolerances,
)

__all__ = ["Settings", "solve_samples"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The arguments of `solve` that say how, as they were given; solver and adjoint are settled."""

    args: tuple[Any, ...]
    solver: Solver
    rtol: Any
    atol: Any
    controller: Controller | None
    dt0: Any
    save: SaveAt
    adjoint: Adjoint
    event: Any
    norm: Any
    max_steps: Any
    compile: bool
    progress: bool
    throw: bool


def solve_samples(
    field: Callable[..., State], y0: State, t0: Any, t1: Any, given: Settings
) -> Solution:
    """Solve each sample at its own pace; see `isocline.solve`.

    Raises:
        InputError: for an argument that is wrong, or that per-sample stepping does not take.
    """
    _check_possible(given)
    packing = Packing.of(y0)
    batch = check_batch(y0, packing)
    check_finite_state(y0)
    check_marked(given.args, batch)
    start = check_sample_times("t0", t0, batch).to(packing.device)
    events = check_events(given.event)
    endless = any(event.last for event in events)
    end = check_sample_times("t1", t1, batch, infinite=endless).to(packing.device)
    save = given.save
    ts = check_output_times(save.ts, save.lengths, start, end, packing.device)
    signs = torch.where(end.detach() >= start.detach(), 1.0, -1.0).double()
    forward = bool((signs > 0).all())
    packed = SampleField(
        field,
        packing,
        given.args,
        Autocast.ambient(packing.device),
        None if forward else signs,
    )
    dt0 = check_first_steps(given.dt0, packing)
    plan = SamplePlan(
        solver=given.solver,
        controller=check_controller(given.controller, given.solver, given.dt0),
        rtol=check_tolerances("rtol", given.rtol, packing),
        atol=check_tolerances("atol", given.atol, packing),
        norm=check_norms(given.norm, packing, packed.unpack),
        dt0=dt0,
        save=save,
        max_steps=check_max_steps(given.max_steps),
        events=events,
    )
    lane_stepper(plan.solver, packing.dtype, packing.device)
    lane_control(plan.controller, plan.solver.error_order)
    problem = _problem(packed, matrix_of(packing, y0).contiguous(), start, end, ts, signs)
    with autocast_off(packing.device), progress_bar(given.progress, 0.0, 1.0) as on_step:
        if given.compile:
            from .compile import compiled_samples  # much of torch comes with it

            plan = compiled_samples(problem, plan, given.adjoint, given.norm)
        return _run(problem, replace(plan, on_step=on_step), given)


def _check_possible(given: Settings) -> None:
    """Refuse what per-sample stepping does not do."""
    if active():
        raise InputError(
            "stepping",
            '"per_sample" under a transform of torch.func, or in forward mode',
            '"joint" there',
        )
    if not isinstance(given.adjoint, SampleAdjoint):
        raise InputError(
            "adjoint",
            f'{type(given.adjoint).__name__} with stepping="per_sample"',
            "Checkpointed(), Direct(), StepBack() or Backsolve()",
        )


def _problem(
    field: SampleField,
    y0: Tensor,
    t0: Tensor,
    t1: Tensor,
    ts: OutputTimes | None,
    signs: Tensor,
) -> SampleProblem:
    """The problem by clocks that rise; times keep their graph if one of them has any."""
    column = signs.unsqueeze(1)
    clocks: Tensor | None = None
    if ts is not None:
        number = torch.arange(ts.times.shape[1], device=y0.device)
        beyond = number >= ts.lengths.unsqueeze(1)
        clocks = (column * ts.times).masked_fill(beyond, torch.inf)
    start, end = signs * t0, signs * t1
    traced = [time for time in (start, end, clocks) if time is not None and time.requires_grad]
    times = None
    if traced and torch.is_grad_enabled():
        times = SampleTimes(start, end, clocks)
        if bool((start == end).any()):
            raise InputError(
                "t0, t1",
                "a sample whose t0 is its t1, where a time requires grad",
                "spans of some length for the gradient of a time",
            )
    known = None if clocks is None else clocks.detach().contiguous()
    return SampleProblem(field, y0, start.detach(), end.detach(), known, times=times)


def _run(problem: SampleProblem, plan: SamplePlan, given: Settings) -> Solution:
    """Integrate, with the adjoint where a gradient can be asked for; judge the status."""
    stats, began = Statistics(), perf_counter()
    field = problem.field
    adjoint = given.adjoint
    assert isinstance(adjoint, SampleAdjoint)
    if torch.is_grad_enabled():
        found = adjoint.run_samples(problem, plan, stats)
    else:
        slopes = field(problem.t0.to(problem.y0.real.dtype), problem.y0).clone()
        check_apart(field, problem.t0, problem.y0, slopes)
        outcome = integrate_samples(replace(problem, f0=slopes), plan)
        found = SampleTrajectory(outcome, torch.cat(outcome.rows) if outcome.rows else None)
    outcome = found.outcome
    stats.nfe_forward, stats.evaluated_samples = field.evaluations, field.rows
    stats.steps_accepted = int(outcome.accepted.sum())
    stats.steps_rejected = int(outcome.rejected.sum())
    stats.samples = SampleCounts(outcome.accepted, outcome.rejected, outcome.evaluations)
    stats.wall_time = perf_counter() - began
    solution = _solution(problem, plan.save, found, stats)
    if given.throw and solution.failed_samples:
        raise _failure(solution)
    return solution


def _solution(
    problem: SampleProblem, save: SaveAt, found: SampleTrajectory, stats: Statistics
) -> Solution:
    """Rows laid out by slot and sample, and what became of each sample."""
    outcome, field = found.outcome, problem.field
    signs = torch.ones_like(problem.t0) if field.signs is None else field.signs
    outputs = [*([] if outcome.initial is None else [outcome.initial]), *outcome.outputs]
    lengths = outcome.filled
    ts, ys = torch.empty(0, field.batch, dtype=torch.float64, device=signs.device), None
    rows = problem.y0[:0] if found.rows is None else found.rows
    if bool(lengths.any()):
        ts, ys = _laid_out(problem, save.fn, outputs, rows, lengths)
    statuses = outcome.statuses
    fine = Status.SUCCESS, Status.EVENT
    failed = tuple(i for i, status in enumerate(statuses) if status not in fine)
    first = failed[0] if failed else 0
    ends = signs * outcome.t_end
    return Solution(
        ts=signs * ts,
        ys=ys,
        status=statuses[first],
        stats=stats,
        t_end=float(ends[first]),
        failed_samples=failed,
        statuses=statuses,
        t_ends=ends,
        lengths=lengths,
        dense=SampleDense.of(problem, outcome, rows) if save.dense else None,
        sample_events=_happened(problem, found, signs),
    )


def _happened(
    problem: SampleProblem, found: SampleTrajectory, signs: Tensor
) -> SampleEvents | None:
    """All events, sample by sample in the order of its solve."""
    happened = found.outcome.happened
    if not happened:
        return None
    samples = torch.cat([samples for samples, *_ in happened])
    order = samples.argsort(stable=True)  # rounds come in the order of each sample's time
    events = torch.cat([hits.events for _, hits, *_ in happened])
    elements = torch.cat([hits.elements for _, hits, *_ in happened])
    times = torch.cat([times for *_, times, _ in happened])
    states = torch.cat([states for *_, states in happened])
    samples = samples[order]
    return SampleEvents(
        samples=samples,
        events=events[order],
        elements=elements[order],
        t=signs[samples] * times[order],
        y=problem.field.unpack(states[order]),
    )


def _laid_out(
    problem: SampleProblem,
    fn: Callable[[Tensor, State], State] | None,
    outputs: list[Output],
    rows: Tensor,
    lengths: Tensor,
) -> tuple[Tensor, State]:
    """Times, shape (slots, batch), and states, or what `fn` makes of them, with these axes leading.

    Beyond a sample's last row the time is that row's, and the state is 0.
    """
    field = problem.field
    batch, slots = field.batch, int(lengths.max())
    places = torch.cat([output.slots * batch + output.samples for output in outputs])
    clocks = torch.cat([output.clocks for output in outputs])
    if rows.shape[0] > int(lengths.sum()):  # the others are nodes of dense output
        own = (places >= 0).nonzero().squeeze(1)
        places, clocks = places[own], clocks[own]
        rows = rows.index_select(0, own)
    ts = clocks.new_zeros(slots * batch).index_copy(0, places, clocks).view(slots, batch)
    last = ts.gather(0, (lengths - 1).clamp(min=0).unsqueeze(0))
    last = torch.where(lengths > 0, last, problem.t0)
    hidden = torch.arange(slots, device=ts.device).unsqueeze(1) >= lengths
    state = field.unpack(rows)
    if fn is not None:
        signs = 1.0 if field.signs is None else field.signs[places % batch]
        state = fn((signs * clocks).to(rows.real.dtype), state)
    shaped = [_spread(leaf, places, (slots, batch)) for leaf in tree_leaves(state)]
    return torch.where(hidden, last, ts), tree_rebuild(state, iter(shaped))


def _spread(leaf: Any, places: Tensor, shape: tuple[int, int]) -> Tensor:
    """Rows at their places of (slots, batch), and zeros elsewhere."""
    if not isinstance(leaf, Tensor) or leaf.shape[:1] != places.shape:
        given = f"shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else type(leaf).__name__
        expected = f"a tensor that has the {len(places)} samples it was given as its leading axis"
        raise InputError("save.fn", f"a function that returns {given}", expected)
    empty = leaf.new_zeros(shape[0] * shape[1], *leaf.shape[1:])
    laid_out: Tensor = empty.index_copy(0, places, leaf).unflatten(0, shape)
    return laid_out


def _failure(solution: Solution) -> Exception:
    """The typed error of a solve in which samples stopped early: that of the first of them."""
    failed = solution.failed_samples
    first = failed[0]
    shown, more = ", ".join(map(str, failed[:5])), len(failed) - 5
    if more > 0:
        shown += f" and {more} more"
    counts = solution.stats.samples
    assert counts is not None
    taken = (
        f"{int(counts.steps_accepted[first])} steps accepted, "
        f"{int(counts.steps_rejected[first])} rejected"
    )
    message = (
        f"{len(failed)} of {len(solution.statuses)} samples stopped early ({shown}). "
        f"Sample {first} stopped at t = {solution.t_end:.9g} ({taken}): {solution.status.value}. "
        "With `throw=False` the others' answers come back."
    )
    return ERRORS[solution.status](message, time=solution.t_end, samples=failed, solution=solution)
