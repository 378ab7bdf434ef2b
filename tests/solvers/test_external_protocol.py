"""Black boxes: the user's own, their names, and what is refused."""

import contextlib
import copy
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

import isocline as ic
from isocline.solvers import BLACK_BOXES, CVODE, SOLVERS, Answer, SciPy
from isocline.solvers.external import Boxed

from ..known import called, knotted, swing, unknotted
from .external_cases import EVERY, SPANS, START, broken, solve

# --- the user's own ------------------------------------------------------------------------------


class Midpoint:
    """A user's black box: one method, no base class."""

    def __init__(self, steps: int = 400) -> None:
        self.steps = steps

    def integrate(
        self,
        field: Any,
        t0: float,
        t1: float,
        y0: Any,
        *,
        ts: Sequence[float],
        rtol: float,
        atol: Any,
        max_steps: int,
    ) -> Answer:
        rows, t, y, taken = [], t0, y0, 0
        for end in ts:
            count = max(1, round(self.steps * abs(end - t) / abs(t1 - t0)))
            h = (end - t) / count
            for i in range(count):
                if taken == max_steps:
                    return Answer(
                        np.array(rows).reshape(-1, len(y0)), ic.Status.MAX_STEPS, "too many"
                    )
                start = t + i * h
                y = y + h * field(start + h / 2, y + h / 2 * field(start, y))
                taken += 1
            t = end
            rows.append(y)
        return Answer(np.array(rows), steps=taken)


@SPANS
def test_a_users_own(span: tuple[float, float]) -> None:
    ts = torch.linspace(*span, 5)
    save = ic.SaveAt(t0=True, ts=ts, t1=True)
    found = solve(knotted, unknotted(span[0]), *span, solver=Midpoint(2000), save=save)
    assert found.ts.tolist() == [span[0], *ts.tolist(), span[1]]
    assert (found.ys - unknotted(found.ts)).abs().max() < 1e-4
    assert (found.stats.steps_accepted, found.stats.nfe) == (2000, 4000)


def test_a_users_own_may_fail() -> None:
    save = ic.SaveAt(ts=[0.5, 1.0, 1.5], t1=True)
    found = solve(swing, START, 0, 2, solver=Midpoint(), save=save, max_steps=250, throw=False)
    assert (found.status, found.t_end) == (ic.Status.MAX_STEPS, 1.0)
    assert found.ts.tolist() == [0.5, 1.0]
    with pytest.raises(ic.MaxStepsError, match=r"Midpoint says: too many\."):
        solve(swing, START, 0, 2, solver=Midpoint(), max_steps=250)


def test_numbers_that_are_not_finite_are_no_success() -> None:
    save = ic.SaveAt(ts=[0.25, 1.0, 1.5])
    start = torch.ones(2, 3, dtype=torch.float64)
    found = solve(broken, start, 0, 2, solver=Midpoint(), save=save, throw=False)
    assert (found.status, found.t_end, found.ts.tolist()) == (ic.Status.NON_FINITE, 0.25, [0.25])
    assert found.failed_samples == (1,)


class Wrong:
    """Answers whatever it was made with."""

    name = "my library"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def integrate(self, *_: Any, **__: Any) -> Any:
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [
        None,
        np.ones((1, 2)),
        Answer(np.ones(2)),
        Answer(np.ones((1, 3))),
        Answer(np.ones((2, 2))),
        Answer(np.ones((0, 2))),
        Answer(np.ones((2, 2)), ic.Status.MAX_STEPS),
    ],
)
def test_a_wrong_answer_is_refused(answer: Any) -> None:
    with pytest.raises(ic.InputError, match=r"`solver`: .*my library.*ys of shape \(1, 2\)"):
        solve(swing, START, 0, 1, solver=Wrong(answer))


def test_steps_that_are_not_shown_cannot_be_kept() -> None:
    for save in (ic.SaveAt(steps=True), ic.SaveAt(dense=True)):
        with pytest.raises(ic.InputError, match=r"`save`: .*Midpoint.*does not show its steps"):
            solve(swing, START, 0, 1, solver=Midpoint(), save=save)


# --- names, values, refusals ---------------------------------------------------------------------


def test_names() -> None:
    assert not {name.replace("_", "") for name in BLACK_BOXES} & set(SOLVERS)
    for name, make in BLACK_BOXES.items():
        for spelling in (name, name.upper(), name.replace("_", "")):
            solver = ic.solvers.by_name(spelling)
            assert isinstance(solver, Boxed)
            assert solver == Boxed(make())
        assert solver.name in str(make().name)
        assert solver.reference == make().reference
    with pytest.raises(ic.InputError, match=r"cvode_adams.*Did you mean 'cvode_adams'"):
        ic.solvers.by_name("cvode_adam")


@pytest.mark.parametrize("make", BLACK_BOXES.values(), ids=BLACK_BOXES)
def test_an_instance_is_a_value(make: Any) -> None:
    box = make()
    assert eval(repr(box), vars(ic.solvers)) == box
    for twin in (make(), pickle.loads(pickle.dumps(box)), copy.deepcopy(box)):
        assert twin == box
    other = type(box)(box.method, {"max_step": 0.01})
    assert other != box
    assert solve(swing, START, 0, 1, solver=other).stats.steps_accepted >= 100


@pytest.mark.parametrize("kind", [SciPy, CVODE])
def test_unknown_methods_and_classes(kind: type) -> None:
    with pytest.raises(ic.InputError, match="`method`: given 'Euler'"):
        kind("Euler")
    with pytest.raises(ic.InputTypeError, match=rf"Write `{kind.__name__}\(\)`"):
        solve(swing, START, 0, 1, solver=kind)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("controller", ic.PID()),
        ("dt0", 0.1),
        ("norm", "rms"),
        ("event", lambda t, y: y[0]),
    ],
)
@pytest.mark.parametrize("solver", ["lsoda", CVODE("Adams"), Midpoint()], ids=called)
def test_what_does_not_apply_is_refused(solver: Any, argument: str, value: Any) -> None:
    text = f"`{argument}`: .*a black box chooses and judges its steps by itself"
    with pytest.raises(ic.InputError, match=text):
        solve(swing, START, 0, 1, solver=solver, **{argument: value})


@EVERY
def test_a_progress_bar_is_told_of_every_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []

    @contextlib.contextmanager
    def bar(wanted: bool, t0: float, t1: float) -> Any:
        yield told.append

    monkeypatch.setattr("isocline._solve.progress_bar", bar)
    found = solve(swing, START, 0, 1, solver=name, progress=True)
    assert len(told) == found.stats.steps_accepted
    assert told == sorted(told)
    assert told[-1] == 1.0
