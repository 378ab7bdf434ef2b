"""A whole solve by the driver."""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import weakref
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...controllers.constant import Constant
from ...controllers.pid import PID
from ...integrate import Outcome, Whole
from ...integrate.loop import not_finite, targets
from ...problem import Plan, Problem
from ...solution import Status
from ...solvers.tableau import CENTRE
from .binding import FAILED, Control, Entry, Frame, Method, Pull, Report, Task, adopted, known
from .library import driver

if TYPE_CHECKING:
    from ..building import Artifact
    from ..solver import CompiledSolver

__all__ = ["Driven", "can_drive", "solved"]

_TURN = 0.1
"""Seconds after which the driver lets Python look for an interrupt, and shows progress."""

_ENDED, _STEP_WANTED = 1, 2
"""Why the driver pauses, but for a turn."""

_STATUS = {
    1: Status.SUCCESS,
    2: Status.MAX_STEPS,
    3: Status.STEP_UNDERFLOW,
    4: Status.NON_FINITE,
}


class Driven:
    """A compiled solver as the driver knows it: made once, for any number of solves.

    Attributes:
        frame: what its solves have in common.
        program: its formulas.
        compiled: the solver itself.
        library: the driver.
    """

    def __init__(self, compiled: CompiledSolver, library: Any) -> None:
        self.compiled, self.program, self.library = compiled, compiled.program, library
        program, packing = compiled.program, compiled.packing
        method = Method(
            program.fsal,
            program.rows,
            program.weights.shape[1],
            program.weights.data_ptr(),
            float(CENTRE),
        )
        wide = packing.dtype is torch.float64
        start = _entry(compiled.start)
        self.frame = Frame(method, start, Entry(), *compiled.tolerances, packing.size, wide)

    def framed(self, step: Artifact, of_step: int, of_start: int) -> Frame:
        """The frame for a solve that begins with such steps.

        Args:
            step: a step.
            of_step, of_start: how many inputs that and the start are given after their own.
        """
        self.frame.step = _entry(step)
        self.frame.of_step, self.frame.of_start = of_step, of_start
        return self.frame

    @classmethod
    def of(cls, compiled: CompiledSolver) -> Driven | None:
        """This for `compiled`; None where there is no driver, or no machine code to drive."""
        library = driver()
        step = compiled.program.step if compiled.kept is None else compiled.kept.step
        if library is None or step.entry is None:
            return None
        return cls(compiled, library)


def can_drive(plan: Plan) -> bool:
    """Whether the driver takes solves as they are planned."""
    known = type(plan.controller) in (PID, Constant)
    return known and not (plan.save.steps or plan.save.dense or plan.reduce is not None)


def solved(driven: Driven, problem: Problem, plan: Plan, record: bool) -> Whole | None:
    """The solve, taken by the driver; None if it has to be taken step by step.

    Args:
        driven: takes its steps.
        problem, plan: what and how.
        record: whether it will be walked back over.
    """
    return _Solve(driven, problem, plan, record) if can_drive(plan) else None


class _Solve(Whole):
    """A solve that the driver takes, and keeps."""

    def __init__(self, driven: Driven, problem: Problem, plan: Plan, record: bool) -> None:
        self._driven, self._problem, self._plan = driven, problem, plan
        self._library = driven.library
        self._forgotten = False
        self._kept = driven.compiled.kept if record else None
        y0 = driven.compiled.packed(problem.y0.detach())
        initial = _initial_times(problem, plan)
        count = len(initial) - plan.save.t0  # of the output times, those at t0
        self._ts = array("d", plan.ts[count:])
        rows = y0.new_empty(len(initial) + len(self._ts) + plan.save.keeps_t1, len(y0))
        if initial:
            rows[: len(initial)] = y0
        out = rows.data_ptr() + len(initial) * len(y0) * y0.element_size()
        self._solve = self._begun(y0, out, record)
        weakref.finalize(self, self._library.isocline_free, self._solve)
        report = self._drive()
        self.outcome = self._judged(report, initial, rows)

    # --- forward ----------------------------------------------------------------------------

    def _begun(self, y0: Tensor, out: int, record: bool) -> int:
        """The solve as the driver knows it, which will write its output to `out`."""
        driven, problem, plan = self._driven, self._problem, self._plan
        compiled, kept = driven.compiled, self._kept
        step = compiled.program.step if kept is None else kept.step
        of_step, of_start = compiled.prepared(step), []
        if plan.dt0 is None and compiled.start is not None:
            of_start = compiled.prepared(compiled.start)
        given = [*of_step, *of_start, y0]
        if plan.dt0 is not None and driven.program.fsal:
            stepper = compiled.bind(problem.field, problem.field.packing)
            slope = stepper.init(problem.t0, y0).slope
            assert slope is not None
            given.append(slope)
        ends = array("d", targets(problem, plan.controller))
        task = Task(
            problem.t0,
            problem.t1,
            math.nan if plan.dt0 is None else plan.dt0,
            plan.max_steps,
            ends.buffer_info()[0],
            len(ends),
            self._ts.buffer_info()[0],
            len(self._ts),
            plan.save.keeps_t1,
            out,
            record,
            0 if kept is None else kept.steps,
            0 if kept is None else kept.kept,
        )
        settings: Any = plan.controller
        control = _control(settings, driven.compiled.solver.error_order)
        begun = self._library.isocline_begin(
            ctypes.byref(driven.framed(step, len(of_step), len(of_start))),
            ctypes.byref(control),
            ctypes.byref(task),
            known(given),
            len(given),
        )
        return _made(begun)

    def _drive(self) -> Any:
        """Drive to the end, and say how it went."""
        report, show = Report(), self._plan.on_step
        drive = self._library.isocline_drive
        while (pause := drive(self._solve, _TURN, ctypes.byref(report))) != _ENDED:
            if pause == _STEP_WANTED:
                self._resume()
            if show is not None:
                show(report.t)
        if show is not None:
            show(report.t)
        tried, chosen = report.accepted + report.rejected, self._plan.dt0 is None
        per_step = self._driven.program.evaluations_per_step
        self._problem.field.evaluations += tried * per_step + 2 * chosen
        return report

    def _resume(self) -> None:
        """Go on with steps that keep nothing: the budget is spent."""
        compiled = self._driven.compiled
        compiled.prepare(self._problem.field, pulls=True)
        step = compiled.program.step
        given = compiled.prepared(step)
        entry = ctypes.byref(_entry(step))
        if self._library.isocline_resume(self._solve, entry, known(given), len(given)):
            raise RuntimeError(FAILED)

    def _judged(self, report: Any, initial: list[float], rows: Tensor) -> Outcome:
        problem, given = self._problem, report.rows
        times = [*initial, *self._ts[: given - report.saved_t1]]
        if report.saved_t1:
            times.append(problem.t1)
        failed: tuple[int, ...] = ()
        if report.status not in _STATUS:
            raise RuntimeError(FAILED)
        status = _STATUS[report.status]
        if status is Status.NON_FINITE:
            culprit = self._library.isocline_culprit(self._solve)
            if culprit is not None:
                failed = not_finite(problem.field.packing, adopted(culprit))
        return Outcome(
            t_end=report.t,
            y=problem.y0,
            h=report.h,
            status=status,
            failed_samples=failed,
            accepted=report.accepted,
            rejected=report.rejected,
            times=times,
            rows=[rows[: len(initial) + given]] if times else [],
        )

    # --- what was remembered ----------------------------------------------------------------

    def steps(self) -> list[tuple[float, float, int, int]]:
        """Ends and rows of the accepted steps."""
        count = self._library.isocline_count(self._solve)
        ends, rows = (ctypes.c_double * (2 * count))(), (ctypes.c_int64 * (2 * count))()
        self._library.isocline_steps(self._solve, ends, rows)
        return list(zip(ends[::2], ends[1::2], rows[::2], rows[1::2], strict=True))

    def states(self) -> list[Tensor]:
        """States at the ends of the steps."""
        count = 1 if self._forgotten else self._library.isocline_count(self._solve) + 1
        return [adopted(self._library.isocline_state(self._solve, i)) for i in range(count)]

    def forget(self) -> None:
        """Let go of all states but the first."""
        self._forgotten = True
        self._library.isocline_forget(self._solve)

    @property
    def forgotten(self) -> bool:
        """Whether that was done."""
        return self._forgotten

    # --- backward ---------------------------------------------------------------------------

    def pull(self, cotangents: Tensor, totals: Sequence[Tensor]) -> Tensor:
        """Walk back over the steps."""
        rows = cotangents.resolve_conj().resolve_neg().contiguous()
        compiled, field, kept = self._driven.compiled, self._problem.field, self._kept
        count = self._library.isocline_count(self._solve)
        again = count if kept is None else max(0, count - kept.steps)
        artifacts: list[Artifact | None] = [compiled.pulling(field) if again else None, None, None]
        if kept is not None:
            artifacts[1:] = kept.pull, kept.start
        given = [[] if made is None else compiled.prepared(made) for made in artifacts]
        every = [*itertools.chain(*given), *totals]
        tensors = known(every)
        counts = [*map(len, given), len(totals)]
        entries = map(_entry, artifacts)
        pull = Pull(*entries, ctypes.addressof(tensors), *counts, rows.data_ptr())
        field.evaluations += again * self._driven.program.evaluations_per_pull
        field.evaluations += kept is not None and kept.start is not None
        return adopted(_made(self._library.isocline_pull(self._solve, ctypes.byref(pull))))


def _entry(artifact: Artifact | None) -> Entry:
    """How the driver calls a compiled graph."""
    return Entry() if artifact is None or artifact.entry is None else artifact.entry


def _initial_times(problem: Problem, plan: Plan) -> list[float]:
    """Times of the rows saved before the first step."""
    at_start = sum(problem.direction * (t - problem.t0) <= 0 for t in plan.ts)
    return [problem.t0] * (plan.save.t0 + at_start)


@functools.lru_cache(maxsize=64)
def _control(controller: Any, error_order: int) -> Control:
    """A controller as the driver knows it."""
    bounds = (controller.min_step, controller.max_step)
    if not controller.adaptive:
        return Control(*bounds)
    names = ("proportional", "integral", "derivative", "safety", "factor_min", "factor_max")
    own = (getattr(controller, name) for name in names)
    return Control(*bounds, *own, error_order, True)


def _made(handle: int | None) -> int:
    if handle is None:
        raise RuntimeError(FAILED)
    return handle
