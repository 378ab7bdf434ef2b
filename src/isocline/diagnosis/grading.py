"""How right a solve's gradient is, by each adjoint, and what it costs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from .. import adjoints as every_room
from ..adjoints import Adjoint, Backsolve, Checkpointed, Direct
from ..errors import GradientError, IsoclineError
from ..holdings import held
from ..solution import Solution
from ..solvers.base import Solver
from ..solvers.external import Boxed
from ..solvers.wrapped import proper
from ..state import State, tree_leaves, tree_rebuild
from .costs import peak_bytes
from .gradient_report import GradientReport, GradientRow
from .trial import Case, Gradient, Question, Trial, in_place, prepared

__all__ = ["every_adjoint", "grade", "label"]

_FAILURES = (IsoclineError, RuntimeError)
"""What makes a row that says so, rather than an exception."""

_ABSURD = 2 * 2**30
"""Bytes that Direct may take, by its own estimate, to find the exact discrete gradient."""

_FEW = 64
"""Numbers to differentiate in, up to which `adjoints="all"` tries forward mode too."""

_BUSY = 20_000
"""Evaluations beyond which the allocations of a solve are too many to be written down."""


def label(adjoint: Adjoint) -> str:
    """An adjoint by the settings that are not its defaults."""
    name = type(adjoint).__name__
    if not is_dataclass(adjoint):
        return name
    own = [
        f"{field.name}={getattr(adjoint, field.name)!r}"
        for field in fields(adjoint)
        if field.repr and not _same(getattr(adjoint, field.name), field.default)
    ]
    return f"{name}({', '.join(own)})"


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and bool(one == other))


def every_adjoint(size: int) -> list[Adjoint]:
    """One of each kind with its defaults, and Checkpointed in its lean ways.

    Args:
        size: how many numbers there are to differentiate in, for forward mode costs each of them.
    """
    kinds: list[Any] = [
        kind
        for name, kind in vars(every_room).items()
        if isinstance(kind, type) and is_dataclass(kind) and callable(getattr(kind, "run", None))
        if name != "Forward" or size <= _FEW
    ]
    lean: list[Adjoint] = [Checkpointed(graph_budget=0), Checkpointed(slots=8)]
    return sorted([*(kind() for kind in kinds), *lean], key=label)


def grade(
    asked: Question,
    solver: Solver,
    chosen: Callable[[int], Sequence[Adjoint]],
    solve: Callable[..., Solution],
    repeats: int,
) -> GradientReport:
    """Try every adjoint on the question.

    Args:
        asked: what to solve and differentiate.
        solver: the method of its settings.
        chosen: the adjoints, by how many numbers there are to differentiate in.
        solve: `isocline.solve`.
        repeats: runs that are timed.
    """
    try:
        case = prepared(asked, solve, solver, double=False)
    except GradientError:
        raise
    except Exception:  # copying runs code of the user's objects, which may raise anything
        case = in_place(asked, solve, solver)
    size = sum(tensor.numel() for group in case.inputs.values() for tensor in group)
    looked = case.look()
    exact, by = _exact(case, solver, looked)
    truth = _truth(asked, case, solver, looked)
    rows = _rows(case, list(chosen(size)), exact, truth, repeats)
    own: dict[str, float] = {}
    if exact is not None and truth.gradient is not None:
        own = relative(exact, truth.gradient)
    return GradientReport(
        solver=solver.name,
        dtype=case.dtype,
        steps=looked.stats.steps_accepted,
        exact_by=by,
        reference=truth.how,
        resolution=truth.resolution,
        own_error=own.pop("", None),
        own_errors=own,
        tolerance=_least(asked.settings.get("rtol", 1e-5)),
        rows=tuple(rows),
    )


def relative(found: Gradient, right: Gradient) -> dict[str, float]:
    """||found - right|| / ||right|| by input, and of all together under the name "".

    Where the right gradient is zero it is 0 if the one found is zero too, and else infinite.
    """
    offs = {name: _norm(found[name], right[name]) for name in right}
    sizes = {name: _norm(right[name]) for name in right}
    offs[""], sizes[""] = _joint(offs), _joint(sizes)
    return {name: _ratio(offs[name], sizes[name]) for name in offs}


def _norm(ones: Sequence[Tensor], others: Sequence[Tensor] | None = None) -> float:
    widest = [torch.promote_types(one.dtype, torch.float64) for one in ones]
    pairs = zip(ones, [None] * len(ones) if others is None else others, widest, strict=True)
    parts = [
        one.to(wide) - (0.0 if other is None else other.to(wide)) for one, other, wide in pairs
    ]
    return math.hypot(*(float(torch.linalg.vector_norm(part)) for part in parts))


def _joint(norms: Mapping[str, float]) -> float:
    return math.hypot(*norms.values())


def _ratio(off: float, size: float) -> float:
    if size == 0.0:
        return 0.0 if off == 0.0 else float("inf")
    return off / size


def _exact(case: Case, solver: Solver, looked: Solution) -> tuple[Gradient | None, str]:
    """The gradient of the discrete solve, and what found it."""
    if isinstance(solver, Boxed):
        return None, ""
    adjoint: Adjoint = Direct()
    y0 = case.question.y0
    state = sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(y0))
    step = (case.evaluation + 2 * state) * max(1, solver.evaluations_per_step)
    attempts = looked.stats.steps_accepted + looked.stats.steps_rejected
    if sum(adjoint.keeps(attempts, state, step)) > _ABSURD:
        adjoint = Checkpointed(graph_budget=0)
        by = f"{label(adjoint)}, for Direct() would take gigabytes"
        return case.run(adjoint).gradient, by
    return case.run(adjoint).gradient, label(adjoint)


@dataclass(frozen=True, slots=True)
class _Truth:
    """The gradient of the ODE itself, how it was found, and how well."""

    gradient: Gradient | None
    how: str
    resolution: float = 0.0


def _truth(asked: Question, case: Case, solver: Solver, looked: Solution) -> _Truth:
    """The gradient at a tight tolerance, in double precision where the field allows that."""
    save = asked.settings.get("save")
    if save is not None and save.steps:
        return _Truth(None, "none: with `SaveAt(steps=True)` the loss depends on the steps taken")
    own = set(map(id, held(proper(solver))))
    coefficients = [name for name, group in case.inputs.items() if id(group[0]) in own]
    for trial_case, where in _in_precision(asked, case, solver):
        for how, changes, adjoint in _tight(trial_case, solver, looked):
            with suppress(*_FAILURES):
                rough = trial_case.run(adjoint, **changes(1e-2)).gradient
                gradient = trial_case.run(adjoint, **changes(1e-3)).gradient
                for name in coefficients:  # the exact solution does not depend on them
                    del rough[name], gradient[name]
                return _Truth(gradient, f"{how}, {where}", relative(rough, gradient)[""])
    return _Truth(None, "none: no method could solve the problem at a tighter tolerance")


def _in_precision(asked: Question, case: Case, solver: Solver) -> Iterator[tuple[Case, str]]:
    """The problem in float64, if its field can be had in it, then as it is."""
    kind = str(case.dtype).removeprefix("torch.")
    if case.dtype in (torch.float64, torch.complex128):
        yield case, kind
        return
    with suppress(Exception):  # as in `grade`; a field that mixes dtypes raises in its own way
        twin = prepared(asked, case.solve, solver, double=True)
        if _shapes(twin) == _shapes(case):
            yield twin, "float64"
    yield case, f"{kind}, for the field does not run in float64"


def _shapes(case: Case) -> dict[str, list[torch.Size]]:
    return {name: [tensor.shape for tensor in group] for name, group in case.inputs.items()}


def _tight(
    case: Case, solver: Solver, looked: Solution
) -> Iterator[tuple[str, Callable[[float], dict[str, Any]], Adjoint]]:
    """Ways to solve the problem better than it was, the best first."""
    given, floor = case.question.settings, 50 * torch.finfo(case.dtype).eps
    controller = given.get("controller")
    adaptive = solver.adaptive if controller is None else controller.adaptive
    rtol, atol = given.get("rtol", 1e-5), given.get("atol", 1e-6)
    if not adaptive:  # tolerances that nobody looked at
        rtol, atol = 1e-8, 1e-8

    def tighter(factor: float) -> dict[str, Any]:
        return {
            "rtol": _scaled(rtol, factor, floor),
            "atol": _scaled(atol, factor, 0.0),
        }

    effort = 2000 + 30 * looked.stats.steps_accepted
    best = {"solver": "dop853", "controller": None, "dt0": None, "max_steps": effort}
    exactly = Checkpointed()
    yield "DOP853 at tolerances 1000 times smaller", lambda f: {**best, **tighter(f)}, exactly
    if isinstance(solver, Boxed):
        name = f"Backsolve by {solver.name} at tolerances 1000 times smaller"
        yield name, tighter, Backsolve()
    elif adaptive:
        name = f"{solver.name} at tolerances 1000 times smaller"
        yield name, lambda f: {**tighter(f), "max_steps": 10**6}, exactly
    elif given.get("dt0") is not None:
        step = given["dt0"]
        yield (
            f"{solver.name} with steps 8 times shorter",
            lambda f: {"dt0": step / (8 if f == 1e-3 else 4), "max_steps": 10**6},
            exactly,
        )


def _scaled(tolerance: State, factor: float, floor: float) -> State:
    """A tolerance times `factor`, but not below `floor`."""
    leaves = (
        (leaf * factor).clamp(min=floor) if isinstance(leaf, Tensor) else max(leaf * factor, floor)
        for leaf in tree_leaves(tolerance)
    )
    return tree_rebuild(tolerance, leaves)


def _least(tolerance: State) -> float:
    """The smallest number in a tolerance."""
    return min(
        float(leaf.min()) if isinstance(leaf, Tensor) else float(leaf)
        for leaf in tree_leaves(tolerance)
    )


def _rows(
    case: Case, chosen: Sequence[Adjoint], exact: Gradient | None, truth: _Truth, repeats: int
) -> list[GradientRow]:
    rows, working = [], {}
    for place, adjoint in enumerate(chosen):
        row, trial = _graded(case, adjoint, exact, truth)
        rows.append(row)
        if trial is not None:
            working[place] = trial
    seconds: dict[int, list[float]] = {place: [] for place in working}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they stand in the rows already
        for _ in range(repeats):
            for place in working:
                seconds[place].append(case.run(chosen[place]).seconds)
        for place, trial in working.items():
            memory = None
            if trial.solution.stats.nfe <= _BUSY:
                memory = peak_bytes(lambda place=place: case.run(chosen[place]), case.device)  # type: ignore[misc]
            rows[place] = replace(rows[place], seconds=median(seconds[place]), memory=memory)
    return rows


def _graded(
    case: Case, adjoint: Adjoint, exact: Gradient | None, truth: _Truth
) -> tuple[GradientRow, Trial | None]:
    """The errors of one adjoint."""
    row = GradientRow(label(adjoint), adjoint)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trial = case.run(adjoint)
        except _FAILURES as error:
            return replace(row, failure=f"{type(error).__name__}: {error}"), None
    stats = trial.solution.stats
    errors = {} if exact is None else relative(trial.gradient, exact)
    true_errors = {} if truth.gradient is None else relative(trial.gradient, truth.gradient)
    row = replace(
        row,
        error=errors.pop("", None),
        errors=errors,
        true_error=true_errors.pop("", None),
        true_errors=true_errors,
        evaluations=(stats.nfe_forward, stats.nfe_backward),
        steps=stats.steps_accepted,
        warnings=tuple(dict.fromkeys(f"{w.category.__name__}: {w.message}" for w in caught)),
    )
    return row, trial
