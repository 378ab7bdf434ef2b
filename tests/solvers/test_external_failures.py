"""Black boxes: how they use the field, and how they fail."""

import contextlib
import io
import math
import sys
import threading
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.solvers import BLACK_BOXES, CVODE, SciPy
from isocline.solvers.external.drive import drive

from ..known import swing, swung
from .external_cases import EVERY, START, broken, solve

# --- the field -----------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("tol", [1e-3, 1e-8])
@pytest.mark.parametrize("span", [(0.0, 5.0), (5.0, 0.0), (0.0, 0.01)])
def test_no_library_asks_outside_the_span(name: str, tol: float, span: tuple[float, float]) -> None:
    """Asked directly: `solve` would also keep the times within."""
    seen: list[float] = []

    def field(t: float, y: Any) -> Any:
        seen.append(t)
        return -20.0 * (y - np.cos(t))

    answer = BLACK_BOXES[name]().integrate(
        field, *span, np.array([1.0, 2.0]), ts=[span[1]], rtol=tol, atol=tol, max_steps=10_000
    )
    assert answer.status is ic.Status.SUCCESS or span[1] == 0.0  # backward it grows by exp(100)
    assert min(seen) >= min(span)
    assert max(seen) <= max(span)


@EVERY
@pytest.mark.parametrize("good", [0, 3, 20])
def test_what_the_field_raises_comes_out(name: str, good: int) -> None:
    class MineError(ValueError):
        pass

    calls = 0

    def field(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > good:
            raise MineError("mine")
        return swing(t, y)

    with pytest.raises(MineError, match=r"^mine$"):
        solve(field, START, 0, 5, solver=name)
    assert calls == good + 1


class Library:
    """A library that asks the field at some times, and goes on whatever it raises."""

    degree, rejected = 1, 0

    def __init__(self, field: Any, times: list[float]) -> None:
        self.field, self.times, self.t, self.y = field, times, 0.0, np.ones(2)

    def step(self) -> None:
        for t in self.times:
            with contextlib.suppress(ZeroDivisionError):
                assert self.field(t, self.y)[0] == 1 / (t - 0.75)
        self.t = 1.0

    def at(self, times: Any) -> Any:
        return np.ones((len(times), 2))


@pytest.mark.parametrize(
    ("times", "seen"),
    [
        ([0.0, 0.5], [0.0, 0.5]),  # what is known of the start is not asked again
        ([0.5, 0.0], [0.0, 0.5, 0.0]),
        ([0.0, 0.75, 0.5], [0.0, 0.75]),  # after an error, nothing is
    ],
)
def test_what_a_library_may_do(times: list[float], seen: list[float]) -> None:
    calls = []

    def field(t: float, y: Any) -> Any:
        calls.append(t)
        return np.array([1 / (t - 0.75), 0.0])

    raised = pytest.raises(ZeroDivisionError) if 0.75 in times else contextlib.nullcontext()
    with raised:
        drive(
            lambda checked: Library(checked, times),
            field, 0.0, 1.0, np.ones(2), ts=[1.0], max_steps=9, watch=None,
        )  # fmt: skip
    assert calls == seen


@EVERY
def test_an_interrupt_comes_out(name: str) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        if t > 1:
            raise KeyboardInterrupt
        return swing(t, y)

    with pytest.raises(KeyboardInterrupt):
        solve(field, START, 0, 5, solver=name)


@EVERY
def test_the_field_may_warn_and_print(name: str) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        sys.stdout.write("here\n")
        warnings.warn("mine", stacklevel=1)
        return swing(t, y)

    with pytest.warns(UserWarning, match="mine"), contextlib.redirect_stdout(io.StringIO()) as out:
        found = solve(field, START, 0, 1, solver=name)
    assert out.getvalue() == "here\n" * found.stats.nfe


@EVERY
def test_wrong_answers_of_the_field_are_named(name: str) -> None:
    with pytest.raises(ic.InputError, match="`field`: given output of shape"):
        solve(lambda t, y: y[:1], START, 0, 1, solver=name)


@pytest.mark.parametrize("inner", ["lsoda", "vode_adams", "cvode_adams"])
@pytest.mark.parametrize("outer", ["lsoda", "vode_bdf", "scipy_rk45", "cvode_bdf"])
def test_a_solve_within_a_field(outer: str, inner: str) -> None:
    """cos t by another solve. LSODA and VODE would mix up the two, and are not let."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        one = torch.ones((), dtype=torch.float64)
        slow = ic.solve(lambda s, z: -torch.sin(s), one, 0, t, solver=inner, rtol=1e-8, atol=1e-8)
        return slow.ys[-1] * torch.stack([y[1], -y[0]])

    clash = inner.partition("_")[0] == outer.partition("_")[0] and inner[0] in "lv"
    refused = pytest.raises(ic.InputError, match="one problem at a time")
    with refused if clash else contextlib.nullcontext():
        end = solve(field, START, 0, 1, solver=outer, rtol=1e-5, atol=1e-5).ys[-1]
        assert (end - swung(1.0)).abs().max() < 1e-3
    after = solve(swing, START, 0, 1, solver=inner, rtol=1e-6, atol=1e-6)
    assert (after.ys[-1] - swung(1.0)).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["lsoda", "vode_adams", "cvode_adams"])
def test_threads_take_turns(name: str) -> None:
    """Each has another speed; the field lets the others run in between."""
    pause = threading.Event()
    ends: dict[float, Tensor] = {}

    def run(speed: float) -> None:
        def field(t: Tensor, y: Tensor) -> Tensor:
            pause.wait(1e-4)
            return speed * torch.stack([y[1], -y[0]])

        ends[speed] = solve(field, START, 0, 1, solver=name, rtol=1e-6, atol=1e-6).ys[-1]

    threads = [threading.Thread(target=run, args=(speed,)) for speed in (0.5, 1.0, 1.5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for speed, end in ends.items():
        exact = torch.tensor([math.cos(speed), -math.sin(speed)], dtype=torch.float64)
        assert (end - exact).abs().max() < 1e-4


# --- how they fail -------------------------------------------------------------------------------


FAILURES: dict[str, Any] = {
    "nan": (broken, ic.Status.NON_FINITE, {}),
    "always": (lambda t, y: y * torch.nan, ic.Status.NON_FINITE, {}),
    "infinite": (lambda t, y: y / 0.0, ic.Status.NON_FINITE, {}),
    "blow_up": (lambda t, y: y**2, ic.Status.STEP_UNDERFLOW, {}),
    "limit": (lambda t, y: torch.sin(1e4 * t) * y, ic.Status.MAX_STEPS, {"max_steps": 12}),
}


@EVERY
@pytest.mark.parametrize("kind", FAILURES)
def test_a_failure_is_a_status(name: str, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Not an exception, a warning, a word on the terminal, an endless loop, or a wrong answer."""
    field, status, options = FAILURES[kind]
    start = torch.ones(2, 3, dtype=torch.float64)
    save = ic.SaveAt(t0=True, ts=[1e-9, 0.25, 1.5], steps=True, t1=True)
    found = solve(field, start, 0, 2, solver=name, save=save, throw=False, **options)
    assert found.status is status
    assert found.ys.isfinite().all()
    assert found.ts.tolist()[-1] == found.t_end
    assert len(set(found.ts.tolist())) == len(found.ts)
    reaches = {"nan": 0.5, "always": 0.0, "infinite": 0.0, "blow_up": 1.0}
    if kind in reaches:
        assert found.t_end == pytest.approx(reaches[kind], abs=0.05)
        samples = {"nan": (1,), "blow_up": ()}.get(kind, (0, 1))
        assert found.failed_samples == samples
    else:
        assert found.stats.steps_accepted == 12
    with pytest.raises(ic.SolveError, match=f"at t = .* {status.value[:20]}"):
        solve(field, start, 0, 2, solver=name, **options)
    assert capfd.readouterr() == ("", "")


def test_a_failure_has_the_librarys_words(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        ic.NonFiniteError, match=r"CVODE's Adams says: the field is not finite at the start\."
    ):
        solve(lambda t, y: y * torch.nan, START, 0, 2, solver="cvode_adams")
    for coarse, words in (
        (SciPy("VODE-Adams", {"min_step": 0.5}), "VODE-Adams says: Repeated error test"),
        (
            CVODE("Adams", {"min_step": 0.5, "max_step": 1.0}),
            "Adams says: Convergence tests",
        ),
    ):
        with pytest.raises(ic.StepUnderflowError, match=words):
            solve(lambda t, y: 30 * torch.cos(30 * t) * y, START, 0, 2, solver=coarse)
    assert capfd.readouterr() == ("", "")  # those are not said a second time
