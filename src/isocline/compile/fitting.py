"""Which solves can be compiled, and what is compiled for one."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..adjoints import Adjoint, Checkpointed
from ..errors import CompileWarning
from ..events import Event
from ..problem import PackedField, Plan, Problem
from ..samples import SampleField, SamplePlan, SampleProblem
from ..solvers.explicit import ExplicitRungeKutta
from ..transforms import active
from .anatomy import Anatomy
from .building import BuildError
from .cache import CacheError
from .graphs.capture import graphed
from .graphs.fitting import demand_takeable, round_request
from .graphs.formula import RoundRequest
from .graphs.program import RoundProgram
from .graphs.solver import GraphedSolver
from .kinds import Unfit, anatomy_of, dissected, find, tensors_of
from .native.whole import can_drive
from .passes import Passes
from .program import Program
from .solver import CompiledSolver
from .subjects import Request, Subject
from .tracing import Untraceable

__all__ = ["compiled", "demand_plain", "or_as_it_is"]

P = TypeVar("P", Plan, SamplePlan)


def compiled(
    problem: Problem, plan: Plan, adjoint: Adjoint, events: tuple[Event, ...], norm: Any
) -> Plan:
    """The plan with compiled steps, or as it is, after a warning that says why.

    Args:
        problem, plan: of the solve.
        adjoint: how it will be differentiated, if grad mode is on.
        events: looked for along the way.
        norm: as the user chose it.
    """
    chosen = adjoint if torch.is_grad_enabled() else None
    return or_as_it_is(plan, problem.field, lambda: _compiled(problem, plan, chosen, events, norm))


def or_as_it_is(plan: P, field: PackedField | SampleField, make: Callable[[], P]) -> P:
    """What `make` makes of a plan, or the plan, after a warning that says why."""
    before = dict(vars(field))
    try:
        if active():
            raise Unfit("it is inside of a transform of torch.func: leave out `compile` there")
        # What is kept must serve solves outside of inference mode too, and traces are no part of
        # what the caller's hooks are to see: activation checkpointing counts what is saved.
        with torch.inference_mode(False), _no_hooks():
            return make()
    except (Unfit, Untraceable, BuildError, CacheError) as reason:
        text = f"`compile=True`: the solve runs uncompiled, since {reason}."
        warnings.warn(text, CompileWarning, stacklevel=6)
        return plan
    finally:
        vars(field).update(before)  # looking at a field is no part of the solve


@contextlib.contextmanager
def _no_hooks() -> Iterator[None]:
    """Inside, the hooks for saved tensors that the caller may have set are not there.

    They cannot be covered by others: torch.func, which a field may use, allows for none.
    """
    hooks: Any = torch._C._autograd
    taken = []
    while (top := hooks._top_saved_tensors_default_hooks(True)) is not None:
        hooks._pop_saved_tensors_default_hooks()
        taken.append(top)
    try:
        yield
    finally:
        for pack, unpack in reversed(taken):
            hooks._push_saved_tensors_default_hooks(pack, unpack)


def _compiled(
    problem: Problem, plan: Plan, adjoint: Adjoint | None, events: tuple[Event, ...], norm: Any
) -> Plan:
    packed, between = problem.field, bool(plan.ts) or plan.save.dense
    solver = demand_plain(problem, plan, adjoint, events, norm, between)
    graphs, average = graphed(packed.packing.device), norm == "rms"
    vectors = isinstance(plan.rtol, Tensor) or isinstance(plan.atol, Tensor)
    request: Request | RoundRequest
    if graphs:
        demand_takeable(plan)
        request = round_request(solver, plan, average, vectors, between)
    else:
        adaptive = plan.controller.adaptive
        request = Request(solver.tableau, average, adaptive, vectors, between, Passes())

    def evaluate() -> None:
        packed(problem.y0.new_tensor(problem.t0), problem.y0.detach())

    known, anatomy = find(packed.func, evaluate)
    of_args = dissected(packed.args, "args") if packed.args else None
    subject = _subject(packed, anatomy, of_args)
    program = known.program(request, subject, of_args, RoundProgram if graphs else Program)
    tensors = subject.tensors
    wanted = adjoint is not None and (
        problem.y0.requires_grad or any(tensors[i].requires_grad for i in program.tensors)
    )
    start = program.start(subject) if plan.dt0 is None else None
    used = [tensors[place] for place in program.tensors]
    if graphs:
        graphed_solver = GraphedSolver(
            solver, plan, packed.packing, program, used, start, None, _again
        )
        graphed_solver.ready(packed, pulls=wanted)
        return replace(plan, solver=graphed_solver)
    kept = None
    if wanted and isinstance(adjoint, Checkpointed) and can_drive(plan):
        kept = program.kept(subject, adjoint.graph_budget)
    ready = CompiledSolver(solver, plan, packed.packing, program, used, start, kept, _again)
    if kept is None:
        ready.prepare(packed, pulls=wanted)
    return replace(plan, solver=ready)


def _subject(packed: PackedField, anatomy: Anatomy, of_args: Anatomy | None) -> Subject:
    tensors = tensors_of(anatomy, of_args)
    fixed = anatomy.parameters | (of_args.parameters if of_args is not None else set())
    return Subject(packed.func, packed.args, packed.packing, tensors, fixed, anatomy, of_args)


@contextlib.contextmanager
def _again(packed: PackedField) -> Iterator[Subject]:
    """A field that was compiled before, while further formulas of it are traced."""
    with torch.inference_mode(False), _no_hooks():
        anatomy = anatomy_of(packed.func) or dissected(packed.func, "field")
        of_args = dissected(packed.args, "args") if packed.args else None
        yield _subject(packed, anatomy, of_args)


def demand_plain(
    problem: Problem | SampleProblem,
    plan: Plan | SamplePlan,
    adjoint: Adjoint | None,
    events: tuple[Event, ...],
    norm: Any,
    between: bool,
) -> ExplicitRungeKutta:
    """The method, where nothing speaks against compiling it in joint and per-sample stepping alike.

    Args:
        problem, plan, adjoint, events, norm: of the solve.
        between: whether there is output between the ends of steps.

    Raises:
        Unfit: naming the reason.
    """
    packing, solver = problem.field.packing, plan.solver
    if not isinstance(solver, ExplicitRungeKutta):
        raise Unfit(f"solver={solver!r} is not an explicit Runge-Kutta method: take one, as Tsit5")
    if packing.device.type != "cpu" and not graphed(packing.device):
        raise Unfit(f"states on {packing.device} are not compiled: move them to the CPU or a GPU")
    if packing.dtype.is_complex:
        raise Unfit("complex states are not compiled: give the real and imaginary parts")
    if events:
        raise Unfit("events are looked for step by step: leave out `event` or `compile`")
    if callable(norm):
        raise Unfit("norm is a function of your own: take 'max_rms' or 'rms'")
    if problem.field.autocast is not None:
        raise Unfit("autocast is on: leave it, or cast inside the field")
    if problem.times is not None:
        raise Unfit("a time requires grad: pass times as numbers")
    if solver.tableau.extra_a and between:
        raise Unfit(f"output of {solver.name} between steps takes further stages: take Tsit5")
    if adjoint is not None and not (isinstance(adjoint, Checkpointed) and adjoint.slots is None):
        raise Unfit(f"adjoint={adjoint!r} is not compiled: take Checkpointed()")
    return solver
