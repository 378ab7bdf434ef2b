"""Which solves with per-sample stepping can be compiled, and what is compiled for one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..adjoints import Adjoint
from ..samples import SamplePlan, SampleProblem
from ..solvers.lane_methods import explicit_lanes
from ..state import tree_leaves
from .fitting import demand_plain, or_as_it_is
from .kinds import Unfit, dissected, find, tensors_of
from .lane_formulas import LaneRequest
from .lane_program import LaneProgram
from .lane_solver import CompiledLaneSolver
from .passes import Passes
from .program import Subject

__all__ = ["compiled_samples"]


def compiled_samples(
    problem: SampleProblem, plan: SamplePlan, adjoint: Adjoint, norm: Any
) -> SamplePlan:
    """The plan with compiled rounds, or as it is, after a warning that says why.

    Args:
        problem, plan: of the solve.
        adjoint: how it will be differentiated, if grad mode is on.
        norm: as the user chose it.
    """
    chosen = adjoint if torch.is_grad_enabled() else None
    return or_as_it_is(plan, problem.field, lambda: _compiled(problem, plan, chosen, norm))


def _compiled(
    problem: SampleProblem, plan: SamplePlan, adjoint: Adjoint | None, norm: Any
) -> SamplePlan:
    field, between = problem.field, plan.save.ts is not None or plan.save.dense
    solver = demand_plain(problem, plan, adjoint, plan.events, norm, between)
    request = LaneRequest(
        tableau=solver.tableau,
        controller=plan.controller,
        error_order=solver.error_order,
        vectors=isinstance(plan.rtol, Tensor) or isinstance(plan.atol, Tensor),
        stages=between,
        stops=bool(plan.controller.stops),
        dues=plan.save.ts is not None and plan.save.rests,
        signed=field.signs is not None,
        passes=Passes(),
    )

    def evaluate() -> None:
        field(problem.t0.to(problem.y0.dtype), problem.y0.detach())

    known, anatomy = find(field.func, evaluate)
    of_args = dissected(field.args, "args") if field.args else None
    tensors = tensors_of(anatomy, of_args)
    by_sample = _by_sample(problem)
    if any(id(tensor) in by_sample for tensor in anatomy.read() or ()):
        raise Unfit("a tensor that `args` has for each sample is held by the field too: use one")
    fixed = {id(tensor) for tensor in tensors} - by_sample
    subject = Subject(field.func, field.args, field.packing, tensors, fixed, anatomy)
    program = known.program(request, subject, of_args, LaneProgram)
    assert isinstance(program, LaneProgram)
    used = [tensors[place] for place in program.tensors]
    wanted = adjoint is not None and any(x.requires_grad for x in (problem.y0, *used))
    pull = program.pull(subject) if wanted else None
    _ = program.step  # compiled now
    inner = explicit_lanes("solver", solver, field.packing.dtype, field.packing.device)
    ready = CompiledLaneSolver(plan, inner, program, used, field, pull)
    return replace(plan, solver=ready)


def _by_sample(problem: SampleProblem) -> set[int]:
    """The ids of the tensors that have an entry for each sample."""
    field = problem.field
    found: set[int] = set()
    for arg, axis in zip(field.args, field.axes, strict=True):
        if axis is None:
            continue
        if axis != 0:
            raise Unfit(f"PerSample has the samples in axis {axis}: put them first")
        found |= {id(leaf) for leaf in tree_leaves(arg)}
    return found
