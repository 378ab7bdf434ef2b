"""What a solve was held up by, in numbers and in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from statistics import median

import torch

from ..adjoints import Adjoint
from ..capture import capture
from ..errors import GradientError
from ..integrate import Outcome
from ..problem import Plan, Problem
from ..solution import Statistics, Status
from .observed import Attempt, Log, observed
from .sizes import in_bytes
from .stiffness import Stiffness, stiffness

__all__ = ["Component", "Explanation", "Memory", "Rejection", "explain"]

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Component:
    """A component of the state, and its part in the error that the steps were chosen by.

    Attributes:
        leaf: where it stands in the state: "y" for a single tensor, else such as "['v']" or "[1]".
        index: its index in that tensor.
        share: its part of the squared error, averaged over all attempted steps, from 0 to 1.
    """

    leaf: str
    index: tuple[int, ...]
    share: float

    def __str__(self) -> str:
        place = ", ".join(map(str, self.index))
        return f"{self.leaf}[{place}]" if place else self.leaf


@dataclass(frozen=True, slots=True)
class Rejection:
    """A step that was tried in vain: where, how long, and its error over the tolerance."""

    t: float
    h: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What is kept for the backward pass, estimated in bytes.

    Attributes:
        state: one state.
        step: what autograd keeps of one step.
        forward: what the solve keeps until its backward pass.
        backward: what the backward pass needs besides.
    """

    state: int
    step: int
    forward: int
    backward: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a solve went as it did. `print` it, or read its attributes.

    Attributes:
        solver: name of the method.
        status, t_end: how and where the solve ended.
        steps: accepted steps.
        rejections: steps tried in vain, in order.
        lengths: the shortest, the median and the longest accepted step.
        components: those that dominated the error, the largest share first; empty for constant
            steps.
        stiffness: how near the steps come to the method's stability limit, or None if unknown.
        evaluations: of the field, forward and backward (0 as long as no backward pass ran).
        memory: what is kept for the backward pass; None where no gradient was asked for.
        changed: whether the solve took other steps when it was taken again: the field, or what it
            depends on, has changed since.
    """

    solver: str
    status: Status
    t_end: float
    steps: int
    rejections: tuple[Rejection, ...]
    lengths: tuple[float, float, float]
    components: tuple[Component, ...]
    stiffness: Stiffness | None
    evaluations: tuple[int, int]
    memory: Memory | None
    changed: bool

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def explain(
    problem: Problem,
    plan: Plan,
    run: Callable[[Problem, Plan], Outcome],
    stats: Statistics,
    adjoint: Adjoint | None,
) -> Explanation:
    """Take a solve again, under observation.

    Args:
        problem, plan: what was solved, and how.
        run: solves it, without a graph.
        stats: of the first time.
        adjoint: what differentiates it; None where no gradient was asked for.
    """
    field = problem.field
    counted = field.evaluations
    with torch.no_grad():
        watched, log = observed(plan, field.packing)
        outcome = run(problem, watched)
        near = stiffness(field, log.samples, plan.solver) if plan.controller.adaptive else None
    memory = None if adjoint is None else _memory(problem, plan, adjoint, stats.steps_accepted)
    field.evaluations = counted  # what the explanation costs is no cost of the solve
    taken = [attempt for attempt in log.attempts if attempt.accepted]
    return Explanation(
        solver=plan.solver.name,
        status=outcome.status,
        t_end=outcome.t_end,
        steps=outcome.accepted,
        rejections=tuple(_rejections(log.attempts)),
        lengths=_lengths(taken),
        components=_components(log),
        stiffness=near,
        evaluations=(stats.nfe_forward, stats.nfe_backward),
        memory=memory,
        changed=(outcome.accepted, outcome.rejected)
        != (stats.steps_accepted, stats.steps_rejected),
    )


def _rejections(attempts: list[Attempt]) -> list[Rejection]:
    return [Rejection(a.t, abs(a.h), a.ratio) for a in attempts if not a.accepted]


def _lengths(taken: list[Attempt]) -> tuple[float, float, float]:
    sizes = [abs(attempt.h) for attempt in taken] or [0.0]
    return min(sizes), median(sizes), max(sizes)


def _components(log: Log) -> tuple[Component, ...]:
    if not log.judged:
        return ()
    shares = log.shares / log.judged
    top = shares.topk(min(_SHOWN, len(shares)))
    found = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return tuple(
        Component(*log.packing.locate(place), share) for place, share in found if share > 0
    )


def _memory(problem: Problem, plan: Plan, adjoint: Adjoint, steps: int) -> Memory | None:
    y0 = problem.y0.detach()
    try:
        seen = capture(problem.field, y0.real.new_tensor(problem.t0), y0)
    except GradientError:
        return None
    state = y0.numel() * y0.element_size()
    step = (seen.graph_bytes + 2 * state) * max(1, plan.solver.evaluations_per_step)
    forward, backward = adjoint.keeps(steps, state, step)
    return Memory(state, step, forward, backward)


def _lines(found: Explanation) -> list[str]:
    """The explanation in words."""
    shortest, middle, longest = found.lengths
    ended = found.status.name.lower().replace("_", " ")
    lines = [f"{found.solver}: {ended} at t = {found.t_end:.6g}"]
    lines.append(
        f"steps: {found.steps} accepted, from {shortest:.3g} to {longest:.3g} long, "
        f"half of them below {middle:.3g}; {len(found.rejections)} rejected"
    )
    if found.changed:
        lines.append("  (taken again: the field has changed since, and the steps with it)")
    lines += _about_rejections(found)
    if found.components:
        parts = ", ".join(f"{part} {100 * part.share:.0f} %" for part in found.components)
        lines.append(f"error dominated by: {parts}")
    lines += _about_stiffness(found.stiffness)
    forward, backward = found.evaluations
    ran = f"{backward} backward" if backward else "backward pass not run, or without evaluations"
    lines.append(f"evaluations of the field: {forward} forward, {ran}")
    if found.memory is not None:
        of_state, of_step, kept, needed = map(in_bytes, astuple(found.memory))
        lines.append(
            f"memory: state {of_state}, graph of one step {of_step}; kept "
            f"for the backward pass {kept}, and {needed} during it"
        )
    return lines


def _about_rejections(found: Explanation) -> list[str]:
    if not found.rejections:
        return []
    worst = sorted(found.rejections, key=lambda one: -one.ratio)[:3]
    shown = ", ".join(f"t = {one.t:.4g} (error {one.ratio:.3g} x tolerance)" for one in worst)
    times = [one.t for one in found.rejections]
    return [f"  rejected between t = {min(times):.4g} and {max(times):.4g}; the worst at {shown}"]


def _about_stiffness(near: Stiffness | None) -> list[str]:
    if near is None:
        return []
    head = f"largest eigenvalue about {near.radius:.3g}, stability limit {near.limit:.3g} / step"
    part = f"{100 * near.bound:.0f} % of the steps"
    if not near.stiff:
        return [f"not stiff: stability holds back {part} ({head})"]
    remedy = (
        "  A looser tolerance would not lengthen them. Use an implicit method: "
        '`solver="radau"`, "bdf" or "cvode_bdf" (with gradients by Backsolve), or constant steps '
        "of `RadauIIA5`; where the field is diffusion-like, `RKC`."
    )
    return [f"STIFF: stability holds back {part} ({head}).", remedy]
