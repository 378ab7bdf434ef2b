"""The loop around a library that takes one step at a time: output, limits, failures.

Libraries fail in many ways: by a flag, an exception, a warning, a NaN among the numbers, a step of
no length, or never. Here all of them become a status.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from ...solution import Status
from .base import Answer, Array, HostField, Watch

__all__ = ["Checked", "Engine", "drive"]

_ULPS = 4
"""Over a span of so few units in the last place libraries refuse to start."""

_PATIENCE = 10_000
"""Evaluations in a row that are not finite, after which nothing good is to be expected."""


class Engine(Protocol):
    """A library's solver in the midst of a problem."""

    @property
    def t(self) -> float:
        """Where it stands; after the last step this is the end, to the last bit."""

    @property
    def y(self) -> Array:
        """The state there, its own from step to step."""

    @property
    def degree(self) -> int:
        """Of the last step's interpolant, at most."""

    @property
    def rejected(self) -> int:
        """Steps tried in vain so far, where it tells, else 0."""

    def step(self) -> str | None:
        """Take a step, not beyond the end; the library's message if that failed."""

    def at(self, times: Sequence[float]) -> Array:
        """States at times within the last step, shape (m, N)."""


class _NotFiniteError(ArithmeticError):
    """The field gives nothing to go on with."""


class Checked:
    """A field that looks at what it answers, and remembers what it raised.

    Args:
        field: the field.
        t, y: where a solve starts; the field is asked there at once, and not again when the
            library does.

    Attributes:
        first: the field at the start.
        error: what the field raised, if it did.
        bad: time at which the field was not finite for the last time, or None.
    """

    def __init__(self, field: HostField, t: float, y: Array) -> None:
        self.field = field
        self.error: BaseException | None = None
        self.bad: float | None = None
        self._in_a_row = 0
        self._start: tuple[float, Array] | None = None
        self.first = self(t, y)
        self._start = (t, y)

    def __call__(self, t: float, y: Array) -> Array:
        """The field at (t, y).

        Raises:
            _NotFiniteError: after thousands of evaluations in vain. No step is short enough then,
                and some libraries would go on shortening it for ever.
        """
        if self.error is not None:  # some libraries go on calling after an error
            raise self.error
        if self._start is not None:
            (t0, y0), self._start = self._start, None
            if t == t0 and (y == y0).all():
                return self.first
        try:
            slope = self.field(float(t), y)
        except BaseException as error:
            self.error = error
            raise
        if _finite(slope):
            self._in_a_row = 0
            return slope
        self.bad = float(t)
        self._in_a_row += 1
        if self._in_a_row > _PATIENCE:
            raise _NotFiniteError("the field is not finite")
        return slope


def drive(
    start: Callable[[Checked], Engine],
    field: HostField,
    t0: float,
    t1: float,
    y0: Array,
    *,
    ts: Sequence[float],
    max_steps: int,
    watch: Watch | None,
) -> Answer:
    """Step from t0 to t1 and collect the states at `ts`; see `BlackBox.integrate`.

    Args:
        start: makes the engine for a field.
    """
    checked = Checked(field, t0, y0)
    run = _Run(start, checked, t0, y0, ts, 1 if t1 > t0 else -1)
    if checked.bad is not None:  # where some libraries would never come to an end
        run.status, run.message = Status.NON_FINITE, "the field is not finite at the start"
        return run.answer()
    if abs(t1 - t0) <= _ULPS * math.ulp(max(abs(t0), abs(t1))):
        return _tiny(checked.first, t0, t1, y0, ts, watch)
    while run.t != t1 and run.status is Status.SUCCESS:
        if run.steps == max_steps:
            run.status = Status.MAX_STEPS
        else:
            run.step(watch)
    return run.answer()


class _Run:
    """How far a solve has come."""

    def __init__(
        self,
        start: Callable[[Checked], Engine],
        field: Checked,
        t0: float,
        y0: Array,
        ts: Sequence[float],
        sign: int,
    ) -> None:
        self.start, self.field, self.ts, self.sign = start, field, ts, sign
        self.engine: Engine | None = None
        self.t, self.y, self.steps = t0, y0, 0
        self.status, self.message = Status.SUCCESS, ""
        self.rows: list[Array] = []

    def step(self, watch: Watch | None) -> None:
        """Take a step, and collect the output in it; or find out why there is none."""
        engine, failure = self._attempt()
        if engine is None or failure is not None:
            self.status = Status.NON_FINITE if self._stuck else Status.STEP_UNDERFLOW
            self.message = failure or ""
            return
        if not _finite(engine.y):
            self.status, self.message = Status.NON_FINITE, "it went on to a state of NaN"
            return
        t, self.t, self.y = self.t, engine.t, engine.y
        self.steps += 1
        missing = self.ts[len(self.rows) :]
        reached = [s for s in missing if self.sign * s <= self.sign * self.t]
        near = _ULPS * math.ulp(self.t)  # the end itself, as far as an interpolant is concerned
        inside = [s for s in reached if abs(s - self.t) > near]
        self.rows += [*engine.at(inside)] if inside else []
        self.rows += [self.y] * (len(reached) - len(inside))
        if watch is not None:
            watch(t, self.t, self.y, engine.at, engine.degree)

    @property
    def _stuck(self) -> bool:
        """Whether the field was not finite somewhere ahead, and the solve did not get past it."""
        return self.field.bad is not None and self.sign * (self.field.bad - self.t) >= 0

    def _attempt(self) -> tuple[Engine | None, str | None]:
        """The engine, after a step, and what went wrong with it."""
        import numpy as np

        failure = None
        try:
            with np.errstate(all="ignore"):
                if self.engine is None:
                    self.engine = self.start(self.field)
                failure = self.engine.step()
        except Exception as error:
            # A matrix of NaNs cannot be factorised, and SciPy says so by an exception.
            if self.field.error is None and not self._stuck:
                raise
            failure = str(error)
        if self.field.error is not None:  # a library may have put another in its place, or none
            raise self.field.error
        if failure is None and self.engine is not None and self.engine.t == self.t:
            failure = "a step of no length"
        return self.engine, failure

    def answer(self) -> Answer:
        """What was found."""
        import numpy as np

        ys = np.stack(self.rows) if self.rows else np.empty((0, len(self.y)))
        rejected = 0 if self.engine is None else self.engine.rejected
        return Answer(ys, self.status, self.message, self.t, self.y, self.steps, rejected)


def _tiny(
    slope: Array, t0: float, t1: float, y0: Array, ts: Sequence[float], watch: Watch | None
) -> Answer:
    """A few units in the last place of t: one step of Euler's method errs by less than rounding."""
    import numpy as np

    def at(times: Sequence[float]) -> Array:
        return y0 + (np.asarray(times)[:, None] - t0) * slope

    y1 = at([t1])[0]
    if watch is not None:
        watch(t0, t1, y1, at, 1)
    return Answer(at(ts), t_end=t1, y_end=y1, steps=1)


def _finite(array: Array) -> bool:
    return math.isfinite(abs(array).max())
