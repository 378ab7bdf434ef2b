"""The continuous solution: `SaveAt(dense=True)` and the call of a `Solution`.

Every method meets every option; of their combinations the quick suite runs a share (`pairwise`).

One method of each kind is tried at once, the others are slow (`one_of_each_kind`).
"""

from typing import Any

import pytest
import torch

import isocline as ic

from ..known import SOLVERS, either, fixed, one_of_each_kind, swing, swung, within_reach

GRAD = pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
WAYS = pytest.mark.parametrize("way", [1, -1], ids=["forward", "backward"])
EVERY = pytest.mark.parametrize("method", one_of_each_kind(SOLVERS))
Method = type[ic.Solver]
Y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)


def solved(way: int = 1, grad: bool = False, **options: Any) -> ic.Solution:
    options = {"rtol": 1e-9, "atol": 1e-9, "save": ic.SaveAt(dense=True), **options}
    with torch.set_grad_enabled(grad):
        return ic.solve(swing, Y0, 0, 3 * way, **options)


@pytest.mark.pairwise
@EVERY
@WAYS
@GRAD
def test_dense_output_is_what_ts_would_have_saved(method: Method, way: int, grad: bool) -> None:
    times = torch.linspace(0, 3 * way, 61, dtype=torch.float64)
    arguments = {**within_reach(method, 1e-9), **either(method, 3)}
    dense = solved(way, grad, **arguments)
    saved = solved(way, grad, **arguments, save=ic.SaveAt(ts=times))
    torch.testing.assert_close(dense(times), saved.ys, rtol=0, atol=1e-12)
    shuffled = torch.randperm(61)
    torch.testing.assert_close(dense(times[shuffled]), saved.ys[shuffled], rtol=0, atol=1e-12)


@WAYS
@GRAD
def test_a_scalar_gives_a_state_and_a_vector_adds_an_axis(way: int, grad: bool) -> None:
    sol = solved(way, grad)
    for t in (0.3 * way, torch.tensor(0.3 * way, dtype=torch.float64)):
        assert sol(t).shape == (2,)
        torch.testing.assert_close(sol(t), swung(t), rtol=0, atol=1e-7)
    assert sol(torch.tensor([0.3 * way])).shape == (1, 2)
    assert sol(torch.empty(0)).shape == (0, 2)
    assert sol.ts.shape == (0,)
    assert sol.ys is None


@GRAD
def test_structures_come_back_as_structures(grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        sol = ic.solve(
            lambda t, y: {"a": swing(t, y["a"]), "b": [y["b"][0] * 0 + 2]},
            {"a": Y0, "b": [torch.zeros(3, 1)]}, 0, 3, save=ic.SaveAt(dense=True),
        )  # fmt: skip
    one, many = sol(1.5), sol(torch.tensor([1.5, 2.5, 3.0]))
    assert one["a"].shape == (2,)
    assert one["b"][0].shape == (3, 1)
    assert many["b"][0].dtype == torch.float32
    torch.testing.assert_close(
        many["b"][0][..., 0], torch.tensor([3.0, 5, 6])[:, None].expand(3, 3)
    )


@EVERY
@WAYS
def test_it_meets_both_ends_of_every_step(method: Method, way: int) -> None:
    save = ic.SaveAt(t0=True, steps=True, dense=True)
    sol = solved(way, save=save, **within_reach(method, 1e-9), **either(method, 3))
    torch.testing.assert_close(sol(sol.ts), sol.ys, rtol=0, atol=1e-13)
    after = sol.ts[1:-1] + 1e-11 * way  # just inside the next step's piece
    torch.testing.assert_close(sol(after), sol.ys[1:-1], rtol=0, atol=1e-9)
    assert torch.equal(sol(0.0), Y0)


@WAYS
@pytest.mark.parametrize("outside", [-1e-9, 3 + 1e-9, 100.0, float("nan"), float("inf")])
def test_a_time_outside_the_span_is_refused(way: int, outside: float) -> None:
    sol = solved(way)
    for t in (way * outside, torch.tensor([0.1 * way, way * outside], dtype=torch.float64)):
        with pytest.raises(ic.InputError, match=r"`t`: given .*expected a time within"):
            sol(t)


def test_a_matrix_of_times_is_refused() -> None:
    with pytest.raises(ic.InputError, match=r"`t`: given shape \(2, 2\)"):
        solved()(torch.zeros(2, 2))


def test_a_solution_without_dense_output_says_how_to_get_it() -> None:
    with pytest.raises(ic.InputError, match="Pass `save=SaveAt\\(dense=True\\)`"):
        solved(save=None)(1.0)


@WAYS
def test_a_failed_solve_is_continuous_up_to_where_it_came(way: int) -> None:
    sol = solved(way, max_steps=5, throw=False)
    assert sol.status is ic.Status.MAX_STEPS
    times = torch.linspace(0, sol.t_end, 9, dtype=torch.float64)
    torch.testing.assert_close(sol(times), swung(times), rtol=0, atol=1e-7)
    with pytest.raises(ic.InputError, match="a time within"):
        sol(3.0 * way)


def test_it_does_not_change_when_the_callers_tensor_does() -> None:
    y0 = Y0.clone()
    with torch.no_grad():
        sol = ic.solve(swing, y0, 0, 1, save=ic.SaveAt(dense=True))
        still = ic.solve(swing, y0, 1, 1, save=ic.SaveAt(dense=True))
    early = sol(1e-3)
    y0.fill_(100.0)
    assert torch.equal(sol(1e-3), early)
    assert torch.equal(still(1.0), Y0)


def test_its_time_derivative_is_the_field() -> None:
    t = torch.tensor(1.234, dtype=torch.float64, requires_grad=True)
    sol = solved(grad=True, solver="dop853", rtol=1e-10, atol=1e-10)
    for i in range(2):
        (rate,) = torch.autograd.grad(sol(t)[i], t)
        expected = swing(t.detach(), swung(1.234))[i]
        torch.testing.assert_close(rate, expected, rtol=0, atol=1e-7)


def test_pieces_survive_the_steppers_scratch() -> None:
    """Without a graph the stages lie in one buffer: each piece must own its slopes."""
    sol = solved(**fixed(ic.RK4, 0.01))
    times = torch.linspace(0, 3, 700, dtype=torch.float64)
    torch.testing.assert_close(sol(times), swung(times), rtol=0, atol=1e-7)
