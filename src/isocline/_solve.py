"""The front door: `solve` checks its input, packs the state once, and hands back a `Solution`."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor

from ._solve_samples import Settings, solve_samples
from .adjoints import Adjoint, Backsolve, Checkpointed
from .adjoints.base import Trajectory
from .answer import failure, reducing, unpacked
from .compiling import untraced
from .controllers.base import Controller
from .controllers.norms import make_norm
from .diagnosis import Explanation, explain
from .errors import InputError, InputTypeError
from .events import Event, Occurrence, check_events
from .integrate import Outcome, integrate, stand_still
from .problem import Autocast, PackedField, Plan, Problem, SaveAt, TimeTensors, autocast_off
from .progress import progress_bar
from .samples import without_marks
from .segments import solve_in_segments
from .solution import Solution, Statistics, Status
from .solvers.base import Solver
from .solvers.external import BlackBox, Boxed
from .state import Packing, State
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
    asked = None
    if compile and not args and event is None and not progress and stepping == "joint":
        numbers, others = (rtol, atol, dt0), (solver, controller, adjoint, norm, max_steps)
        asked, found = _recalled(field, y0, t0, t1, save, numbers, others, throw)
        if found is not None:
            return found
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
        fast = _compiled(problem, plan, chosen, events, norm, asked) if compile else plan
        return _run(problem, plan, fast, chosen, events, throw)


def _recalled(
    field: Callable[..., State],
    y0: State,
    t0: float | Tensor,
    t1: float | Tensor,
    save: SaveAt | None,
    numbers: tuple[Any, ...],
    settings: tuple[Any, ...],
    throw: bool,
) -> tuple[Hashable | None, Solution | None]:
    """What is asked for, if it can be remembered; its solution, if it was prepared before."""
    from .compile import recall  # much of torch comes with it

    asked = recall.question(y0, t0, t1, save, numbers, settings)
    known = None if asked is None else recall.recalled(field, asked)
    if known is None:
        return asked, None
    start, end = float(t0), float(t1)
    if start == end or not math.isfinite(end - start):
        return asked, None
    if not math.isfinite(y0.detach().sum().item()):  # cheaper than a look at each element
        check_finite_state(y0)
    packed = PackedField(field, known.packing)
    problem = Problem(packed, _start(known.packing.pack(y0), known.plan.save), start, end)
    return asked, _run(problem, known.plan, known.fast, known.adjoint, (), throw)


def _compiled(
    problem: Problem,
    plan: Plan,
    adjoint: Adjoint,
    events: tuple[Event, ...],
    norm: str | Callable[[State], Tensor] | None,
    asked: Hashable | None,
) -> Plan:
    """The plan with compiled steps, where they can be; remembered as what was asked for."""
    if problem.t0 == problem.t1:
        return plan
    from .compile import compiled, recall

    fast = compiled(problem, plan, adjoint, events, norm)
    if asked is not None and fast is not plan:
        field = problem.field
        recall.keep(field.func, asked, field.packing, plan, fast, adjoint)
    return fast


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
        found = run(problem, reducing(fast, packed.packing))
    else:
        found = run(problem, fast)
    outcome = found.outcome
    stats.nfe_forward = packed.evaluations
    stats.jacobians, stats.linear_solves = packed.jacobians, packed.linear_solves
    stats.steps_accepted, stats.steps_rejected = outcome.accepted, outcome.rejected
    stats.wall_time = perf_counter() - began
    again = _way_to_explain(problem, plan, events, stats, adjoint)
    solution = unpacked(problem, plan, found, stats, occurrences, again)
    if throw and outcome.status not in (Status.SUCCESS, Status.EVENT):
        raise failure(solution, packed.packing, outcome.message)
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
    problem = Problem(problem.field, problem.y0.detach(), problem.t0, problem.t1, problem.f0)

    def again(problem: Problem, plan: Plan) -> Outcome:
        if events:
            return solve_in_segments(problem, plan, events, _run_plainly)[0].outcome
        return _run_plainly(problem, plan).outcome

    def explanation() -> Explanation:
        bare = replace(plan, save=SaveAt(), ts=(), on_step=None)
        with autocast_off(problem.field.packing.device):
            return explain(problem, bare, again, stats, used)

    return explanation


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
