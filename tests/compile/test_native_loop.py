"""The driver takes the steps that the loop takes, and walks back over them as Python does.

What it calls are graphs that Python runs: to the driver they are as machine code is, and need no
compiler. `test_compiled_solves.py` has it drive machine code.
"""

import ctypes
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.compile import recall
from isocline.compile.native import whole
from isocline.compile.native.binding import known
from isocline.compile.native.library import driver

from .compile_cases import RUN

pytestmark = pytest.mark.usefixtures("graphs")

RATE = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)


def logistic(t: Tensor, y: Tensor) -> Tensor:
    return RATE * y * (1 - y) * torch.cos(3 * t)


def start(batch: int = 3) -> Tensor:
    return torch.linspace(0.1, 0.7, 2 * batch, dtype=torch.float64).view(batch, 2)


def solve(y0: Tensor, t0: float = 0.0, t1: float = 2.0, **options: Any) -> ic.Solution:
    """By bosh3 unless told otherwise: its four stages are quicker to trace than seven."""
    return ic.solve(logistic, y0, t0, t1, compile=True, **({"solver": "bosh3"} | options))


STOPS = (0.3, 1.1, 5.0)

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "backward in time": {"t0": 2.0, "t1": -1.0},
    "another start": {"dt0": 0.3},
    "PI control with stops": {"controller": ic.PI(stops=STOPS, max_step=0.25)},
    "PID control": {"controller": ic.PID(proportional=0.2, integral=0.4, derivative=0.1)},
    "coarse": {"rtol": 0.05, "atol": 0.05, "dt0": 2.0},
    "constant": {"controller": ic.Constant(stops=(0.33,)), "dt0": 0.07},
    "not first same as last": {"solver": "heuneuler"},
    "kept ends": {"save": ic.SaveAt(t0=True, t1=True)},
}


@pytest.mark.parametrize("way", WAYS)
def test_steps_are_the_loops_to_the_last_bit(way: str, loop: Any, driven: list[bool]) -> None:
    options = {"t0": 0.0, "t1": 2.0} | WAYS[way]

    def run() -> tuple[ic.Solution, Tensor]:
        y0 = start().requires_grad_()
        sol = solve(y0, **options)
        (gradient,) = torch.autograd.grad(sol.ys.square().sum(), y0)
        return sol, gradient

    (fast, of_fast), (slow, of_slow) = run(), loop(run)
    assert driven == [True]
    assert torch.equal(fast.ys, slow.ys)
    assert torch.equal(fast.ts, slow.ts)
    assert torch.equal(of_fast, of_slow)
    for count in ("nfe_forward", "nfe_backward", "steps_accepted", "steps_rejected"):
        assert getattr(fast.stats, count) == getattr(slow.stats, count), count
    assert fast.stats.steps_accepted > 1


@pytest.mark.parametrize(
    ("times", "t0", "t1"),
    [
        ([0.0, 0.0, 0.31, 0.77, 0.770001, 2.0], 0.0, 2.0),
        ([1.9, 1.0, 0.5], 2.0, 0.0),
        ([1.0], 0.0, 2.0),
    ],
)
@pytest.mark.parametrize("ends", [False, True])
def test_output_between_steps(
    times: list[float], t0: float, t1: float, ends: bool, loop: Any, driven: list[bool]
) -> None:
    def run() -> list[Tensor]:
        y0 = start().requires_grad_()
        sol = solve(y0, t0, t1, save=ic.SaveAt(ts=times, t0=ends, t1=ends))
        weights = torch.linspace(-1, 2, sol.ys.numel(), dtype=torch.float64).view_as(sol.ys)
        gradients = torch.autograd.grad((weights * sol.ys).sum(), [y0, RATE])
        return [sol.ts, sol.ys, *gradients]

    for fast, slow in zip(run(), loop(run), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-13, atol=1e-14)
    assert driven == [True]


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 3},
        {"controller": ic.PID(min_step=0.5), "rtol": 1e-12, "atol": 1e-12},
        {"controller": ic.PID(factor_min=0.5)},
        {"controller": ic.Constant(), "dt0": 0.5},
    ],
)
def test_failures_are_the_loops(options: dict[str, Any], loop: Any, driven: list[bool]) -> None:
    """A sample that blows up beside one that does not."""
    y0 = torch.tensor([[0.01, 0.02], [0.01, -5.0]], dtype=torch.float64)

    def run() -> ic.Solution:
        return solve(y0, throw=False, **options)

    fast, slow = run(), loop(run)
    assert driven == [True]
    assert fast.status is slow.status
    assert fast.status is not ic.Status.SUCCESS
    assert fast.t_end == slow.t_end
    assert fast.failed_samples == slow.failed_samples
    assert fast.ys is None


def test_a_field_that_is_not_finite_at_the_start(loop: Any) -> None:
    y0 = torch.tensor([[0.5, 0.5], [1e300, 0.5]], dtype=torch.float64)

    def run() -> ic.Solution:
        return solve(y0, throw=False)

    fast, slow = run(), loop(run)
    assert fast.status is slow.status is ic.Status.NON_FINITE
    assert fast.failed_samples == slow.failed_samples == (1,)


def test_a_solve_goes_on_after_python_had_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = solve(start()).ys
    library, turns = driver(), []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(library, name)

        def isocline_drive(self, *given: Any) -> Any:
            turns.append(given)
            return library.isocline_drive(*given)  # type: ignore[union-attr]

    monkeypatch.setattr(whole, "_TURN", 0.0)
    monkeypatch.setattr(whole, "driver", Watched)
    monkeypatch.setattr(recall, "_KNOWN", {})
    sol = solve(start())
    assert torch.equal(sol.ys, expected)
    assert len(turns) >= sol.stats.steps_accepted


def test_backward_again_and_after_the_graph_was_let_go(driven: list[bool]) -> None:
    y0 = start().requires_grad_()
    loss = solve(y0).ys.square().sum()
    first = torch.autograd.grad(loss, [y0, RATE], retain_graph=True)
    again = torch.autograd.grad(loss, [y0, RATE], retain_graph=True)
    last = torch.autograd.grad(loss, [y0, RATE])
    for one, other, third in zip(first, again, last, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)
    assert driven == [True]


def test_what_the_driver_was_lent_is_let_go(driven: list[bool]) -> None:
    """Tensors are counted while a solve may be walked back over, and no longer."""
    assert RATE._use_count() == 1
    y0 = start().requires_grad_()
    solution = solve(y0)
    assert RATE._use_count() > 1
    solution.ys.sum().backward()
    assert driven == [True]
    before = weakref.ref(y0)
    RATE.grad = None
    del solution, y0
    assert before() is None
    assert RATE._use_count() == 1


def test_tensors_of_python_are_known_to_the_driver() -> None:
    """Wherever they begin in their memory; to look at them is not to keep them."""
    library = driver()
    assert library is not None
    for tensor in (torch.zeros(6), torch.zeros(6)[2:], torch.nn.Parameter(torch.ones(2, 2))):
        before = tensor._use_count()
        assert library.isocline_data(known([tensor])) == tensor.data_ptr()
        assert tensor._use_count() == before


def test_second_derivatives(driven: list[bool]) -> None:
    """They take the steps one by one, as recorded by the driver."""

    def of(fast: bool) -> tuple[Tensor, ...]:
        y0 = start().requires_grad_()
        options = {"solver": "bosh3", "save": ic.SaveAt(ts=[0.7, 2.0])}
        sol = ic.solve(logistic, y0, 0.0, 2.0, compile=fast, **options)
        (gradient,) = torch.autograd.grad(sol.ys.pow(3).sum(), y0, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), [y0, RATE])

    for fast, slow in zip(of(True), of(False), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-7, atol=1e-9)
    assert driven == [True]


def test_without_a_driver_the_loop_takes_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = solve(start()).ys
    monkeypatch.setattr(whole, "driver", lambda: None)
    monkeypatch.setattr(recall, "_KNOWN", {})
    assert torch.equal(solve(start()).ys, expected)


def test_a_step_that_fails_is_an_error_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []

    @RUN
    def broken(container: int, inputs: Any, count: int, *outputs: Any) -> int:
        calls.append(count)
        return 1

    address = ctypes.cast(broken, ctypes.c_void_p).value
    solve(start())
    monkeypatch.setattr(recall, "_KNOWN", {})
    monkeypatch.setattr(whole, "_entry", lambda artifact: whole.Entry(address, None))
    with pytest.raises(RuntimeError, match="compiled step failed"):
        solve(start())
    assert calls
