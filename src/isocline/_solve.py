"""The front door: `solve` checks its input, packs the state once, and hands back a `Solution`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor

from ._solve_samples import Settings, solve_samples
from .adjoints import Adjoint, Backsolve, Checkpointed
from .adjoints.base import Trajectory
from .compiling import untraced
from .controllers.base import Controller
from .controllers.norms import make_norm
from .diagnosis import Explanation, explain
from .errors import InputError, InputTypeError
from .events import Event, Occurrence, check_events
from .integrate import DenseOutput, Outcome, integrate, stand_still
from .problem import Autocast, PackedField, Plan, Problem, SaveAt, TimeTensors, autocast_off
from .progress import progress_bar
from .samples import without_marks
from .segments import solve_in_segments
from .solution import ERRORS, Solution, Statistics, Status
from .solvers.base import Solver, Time
from .solvers.external import BlackBox, Boxed
from .state import Packing, State, tree_describe, tree_leaves, tree_rebuild
from .transforms import active, shared, tracked
from .validate import (
    check_black_box,
    check_controller,
    check_finite_state,
    check_max_steps,
    check_solver,
    check_step,
    check_stepping,
    check_time,
    check_tolerance,
    check_ts,
)

__all__ = ["solve"]


@untraced
def solve(
    field: Callable[..., State],
    y0: State,
    t0: float | Tensor,
    t1: float | Tensor,
    *,
    args: tuple[Any, ...] = (),
    solver: Solver | BlackBox | str = "tsit5",
    rtol: float | Tensor | State = 1e-5,
    atol: float | Tensor | State = 1e-6,
    controller: Controller | None = None,
    dt0: float | None = None,
    save: SaveAt | None = None,
    adjoint: Adjoint | None = None,
    stepping: Literal["joint", "per_sample"] = "joint",
    event: Event | Callable[..., Tensor] | Sequence[Any] | None = None,
    norm: str | Callable[[State], Tensor] | None = None,
    max_steps: int = 16**4,
    compile: bool = False,
    progress: bool = False,
    throw: bool = True,
) -> Solution:
    """Solve dy/dt = field(t, y, *args) from y(t0) = y0 to t1, differentiably.

    Gradients flow to y0, t0, t1, `save.ts`, tensors in `args`, the parameters of a module, and any
    tensor that the field closes over.

    Args:
        field: a module or any callable `(t, y, *args) -> dy/dt`; t is a 0-d tensor of the
            state's real dtype (float32 for half-precision states), dy/dt is structured like y.
            It is never called outside [t0, t1].
        y0: initial state: a floating-point or complex tensor, or a nested tuple, list or dict of
            them on one device. The leading dimension of a state with two or more dimensions is
            taken as the batch. Half-precision states are summed in float32.
        t0, t1: start and end, numbers or 0-d tensors; t1 < t0 solves backward in time. With an
            event that ends the solve, t1 may be infinite.
        args: handed on to `field`.
        solver: the method, such as `Dopri5()`, or its name; or a `BlackBox`, such as "lsoda".
        rtol, atol: relative and absolute tolerance on the local error: numbers, tensors that
            broadcast against the state, or a structure of them like y0.
        controller: chooses steps; by default `PID()` for a method with an error estimate, and
            `Constant()` for one without.
        dt0: first step, a positive length; chosen by itself where the controller is adaptive.
        save: what to keep; by default the state at t1.
        adjoint: how to differentiate; by default `Checkpointed()`, exact and lean, and
            `Backsolve()` for a black box, for which there is no other way.
        stepping: "joint", in which the batch shares its steps, or "per_sample", in which each
            sample has a time, steps and a status of its own: then t has the shape (batch,) in the
            field, t0, t1 and `save.ts` may have that axis too, and arguments with an entry for each
            sample are marked `PerSample`.
        event: an `Event`, or several, to look for along the way; a bare condition
            `(t, y, *args) -> Tensor` ends the solve where it passes through zero.
        norm: of the error over tolerance: None or "max_rms" (the largest of the samples' RMS),
            "rms" (over the whole batch), or a function of a state that returns a scalar.
        max_steps: limit on attempted steps.
        compile: run each step as compiled code (see `isocline.compile`). The first solve of its
            kind takes some seconds; what cannot be compiled runs as ever, after a
            `CompileWarning`.
        progress: show a progress bar (needs the package `rich`).
        throw: raise when the solve fails; otherwise hand back what was computed, with its status.

    Returns:
        The solution: times, states, status, statistics.

    Raises:
        InputError: for an argument that is wrong; the message names it.
        MaxStepsError, StepUnderflowError, NonFiniteError, UnsolvedStepError: the solve failed and
            `throw` is true.
        GradientError: a gradient was asked for that cannot be computed.
    """
    if not callable(field):
        raise InputTypeError("field", type(field).__name__, "a callable field(t, y, *args)")
    save = _check_save(save)
    if check_stepping(stepping) == "per_sample":
        solver = check_solver(solver)
        settings = Settings(
            args=_check_args(args),
            solver=solver,
            rtol=rtol,
            atol=atol,
            controller=controller,
            dt0=dt0,
            save=save,
            adjoint=_check_adjoint(adjoint, solver),
            event=event,
            norm=norm,
            max_steps=max_steps,
            compile=compile,
            progress=progress,
            throw=throw,
        )
        return solve_samples(field, y0, t0, t1, settings)
    if save.lengths is not None:
        expected = 'None: with stepping="joint" all samples share `ts`'
        raise InputError("save.lengths", "a value", expected)
    packing = Packing.of(y0)
    check_finite_state(y0)
    events = check_events(event)
    _check_untransformed(events)
    endless = any(event.last for event in events)
    start, end = check_time("t0", t0), check_time("t1", t1, infinite=endless)
    dt0 = check_step(dt0, start, end)
    solver = check_solver(solver)
    check_black_box(solver, controller=controller, dt0=dt0, norm=norm, event=event)
    plan = Plan(
        solver=solver,
        controller=check_controller(controller, solver, dt0),
        rtol=check_tolerance("rtol", rtol, packing),
        atol=check_tolerance("atol", atol, packing),
        norm=shared(make_norm(norm, packing)) if active() else make_norm(norm, packing),
        dt0=dt0,
        save=save,
        ts=check_ts(save.ts, start, end),
        max_steps=check_max_steps(max_steps),
    )
    arguments = without_marks(_check_args(args))
    packed = PackedField(field, packing, arguments, Autocast.ambient(packing.device))
    with autocast_off(packing.device), progress_bar(progress, start, end) as on_step:
        problem = Problem(
            packed,
            _start(packing.pack(y0), save),
            start,
            end,
            times=_time_tensors(t0, t1, save.ts),
        )
        plan = replace(plan, on_step=on_step)
        chosen = _check_adjoint(adjoint, solver)
        fast = _compiled(problem, plan, chosen, events, norm) if compile else plan
        return _run(problem, plan, fast, chosen, events, throw)


def _compiled(
    problem: Problem,
    plan: Plan,
    adjoint: Adjoint,
    events: tuple[Event, ...],
    norm: str | Callable[[State], Tensor] | None,
) -> Plan:
    """The plan with compiled steps, where they can be."""
    if problem.t0 == problem.t1:
        return plan
    from .compile import compiled  # much of torch comes with it

    return compiled(problem, plan, adjoint, events, norm)


def _run(
    problem: Problem,
    plan: Plan,
    fast: Plan,
    adjoint: Adjoint,
    events: tuple[Event, ...],
    throw: bool,
) -> Solution:
    """Integrate, with the adjoint where a gradient can be asked for; unpack; judge the status.

    The plan is followed as `fast` has it; the solve is explained as `plan` has it.
    """
    stats, began = Statistics(), perf_counter()
    packed = problem.field
    occurrences: tuple[Occurrence, ...] = ()
    recording = torch.is_grad_enabled() or active()

    def run(problem: Problem, plan: Plan) -> Trajectory:
        if problem.t0 != problem.t1 and recording:
            return adjoint.run(problem, plan, stats)
        return _run_plainly(problem, plan)

    if events:
        found, occurrences = solve_in_segments(problem, fast, events, run)
    elif problem.t0 == problem.t1 or not recording:
        found = run(problem, _reducing(fast, packed.packing))
    else:
        found = run(problem, fast)
    outcome = found.outcome
    stats.nfe_forward = packed.evaluations
    stats.jacobians, stats.linear_solves = packed.jacobians, packed.linear_solves
    stats.steps_accepted, stats.steps_rejected = outcome.accepted, outcome.rejected
    stats.wall_time = perf_counter() - began
    solution = replace(
        _unpacked(problem, plan, found, stats, occurrences),
        again=_way_to_explain(problem, plan, events, stats, adjoint),
    )
    if throw and outcome.status not in (Status.SUCCESS, Status.EVENT):
        raise _failure(solution, packed.packing, outcome.message)
    return solution


def _run_plainly(problem: Problem, plan: Plan) -> Trajectory:
    """Integrate without an adjoint."""
    go = stand_still if problem.t0 == problem.t1 else integrate
    outcome = go(problem, plan)
    rows = torch.cat(outcome.rows) if outcome.rows else None
    return Trajectory(outcome, rows, tuple(outcome.pieces))


def _way_to_explain(
    problem: Problem, plan: Plan, events: tuple[Event, ...], stats: Statistics, adjoint: Adjoint
) -> Callable[[], Explanation] | None:
    """Takes the solve again for `Solution.explain`; None where that is not possible.

    A black box shows no steps, and the tensors of a transform die with it.
    """
    if isinstance(plan.solver, Boxed) or active():
        return None
    used = adjoint if torch.is_grad_enabled() else None
    # Without the caller's graph, which the solution need not keep alive.
    problem = replace(problem, y0=problem.y0.detach(), times=None)
    plan = replace(plan, save=SaveAt(), ts=(), on_step=None)

    def again(problem: Problem, plan: Plan) -> Outcome:
        if events:
            return solve_in_segments(problem, plan, events, _run_plainly)[0].outcome
        return _run_plainly(problem, plan).outcome

    def explanation() -> Explanation:
        with autocast_off(problem.field.packing.device):
            return explain(problem, plan, again, stats, used)

    return explanation


def _unpacked(
    problem: Problem,
    plan: Plan,
    found: Trajectory,
    stats: Statistics,
    events: tuple[Occurrence, ...],
) -> Solution:
    packing, outcome = problem.field.packing, found.outcome
    kept: list[State] = outcome.reduced
    reduce = _reducing(plan, packing).reduce
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
        ts=torch.tensor(outcome.times, dtype=torch.float64, device=packing.device),
        ys=ys,
        status=outcome.status,
        stats=stats,
        t_end=outcome.t_end,
        failed_samples=outcome.failed_samples,
        events=events,
        dense=dense,
    )


def _reducing(plan: Plan, packing: Packing) -> Plan:
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


def _failure(solution: Solution, packing: Packing, said: str) -> Exception:
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


def _time_tensors(t0: float | Tensor, t1: float | Tensor, ts: Any) -> TimeTensors | None:
    """All times as tensors on the host if any of them records a gradient."""
    given = [time for time in (t0, t1, ts) if isinstance(time, Tensor)]
    if not any(map(tracked, given)):
        return None

    def host(time: Any) -> Tensor:
        tensor = time if isinstance(time, Tensor) else torch.tensor(time, dtype=torch.float64)
        return tensor.to("cpu", torch.float64)

    times = torch.empty(0, dtype=torch.float64) if ts is None else host(ts)
    return TimeTensors(host(t0).reshape(()), host(t1).reshape(()), times)


def _start(y0: Tensor, save: SaveAt) -> Tensor:
    """The packed initial state; a copy where the solution will go on referring to it."""
    return y0.clone() if save.dense else y0.contiguous()


def _check_save(save: SaveAt | None) -> SaveAt:
    if save is None:
        return SaveAt()
    if not isinstance(save, SaveAt):
        hint = "For output times write `save=SaveAt(ts=...)`."
        raise InputTypeError("save", type(save).__name__, "a SaveAt", hint)
    if save.fn is not None and not callable(save.fn):
        raise InputTypeError("save.fn", type(save.fn).__name__, "a function fn(t, y)")
    return save


def _check_untransformed(events: tuple[Event, ...]) -> None:
    """Raise if events are to be looked for under a transform: each member has times of its own."""
    if events and active():
        raise InputError(
            "event",
            "an event under a transform of torch.func, or in forward mode",
            "a solve without events there",
            "Differentiate with `torch.autograd`, and lay the members of a vmap into a batch.",
        )


def _check_args(args: Any) -> tuple[Any, ...]:
    if not isinstance(args, tuple):
        hint = "Write `args=(value,)` for one argument."
        raise InputTypeError("args", type(args).__name__, "a tuple", hint)
    return args


def _check_adjoint(adjoint: Adjoint | None, solver: Solver) -> Adjoint:
    if adjoint is None:
        return Backsolve() if isinstance(solver, Boxed) else Checkpointed()
    if isinstance(adjoint, type) or not callable(getattr(adjoint, "run", None)):
        given = adjoint.__name__ if isinstance(adjoint, type) else type(adjoint).__name__
        raise InputTypeError("adjoint", given, "Direct(), Checkpointed(), Backsolve() or such")
    return adjoint
