"""What `SaveAt` keeps: which rows, at which times, in which order.

Every choice meets every option; of their combinations the quick suite runs a share (`pairwise`).

One method of each kind is tried at once, the others are slow (`one_of_each_kind`).
"""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic

from ..known import SOLVERS, either, one_of_each_kind, swing, swung, within_reach

GRAD = pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
WAYS = pytest.mark.parametrize("way", [1, -1], ids=["forward", "backward"])
Y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)


def solved(save: ic.SaveAt, way: int = 1, grad: bool = False, **options: Any) -> ic.Solution:
    """`swing` over a span of 3, to 1e-9."""
    options = {"rtol": 1e-9, "atol": 1e-9, **options}
    with torch.set_grad_enabled(grad):
        return ic.solve(swing, Y0, 0, 3 * way, save=save, **options)


def right(sol: ic.Solution, within: float = 1e-7) -> None:
    torch.testing.assert_close(sol.ys, swung(sol.ts), rtol=0, atol=within)


@pytest.mark.pairwise
@WAYS
@GRAD
@pytest.mark.parametrize("flags", list(product([False, True], [None, True, False], [False, True])))
@pytest.mark.parametrize("inner", [None, [0.0, 0.5, 0.5, 2.0, 3.0], [0.7]], ids=str)
def test_every_choice_saves_the_right_states_in_order(
    way: int, grad: bool, flags: tuple[bool, bool | None, bool], inner: list[float] | None
) -> None:
    t0, t1, steps = flags
    ts = None if inner is None else [way * t for t in inner]
    sol = solved(ic.SaveAt(t0=t0, t1=t1, ts=ts, steps=steps), way, grad)
    keeps_end = t1 if t1 is not None else ts is None and not steps
    count = t0 + len(inner or [])
    if steps:
        ends = solved(ic.SaveAt(steps=True), way, grad).ts
        count += len([t for t in ends.tolist() if t not in (ts or [])])
    elif keeps_end:
        count += 1
    assert len(sol.ts) == count
    assert sol.ts.dtype == torch.float64
    if count == 0:
        assert sol.ys is None
        return
    right(sol)
    assert (way * sol.ts).diff().min() >= 0 if count > 1 else True
    for t in ts or []:
        assert t in sol.ts.tolist()


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor], ids=["list", "tuple", "float32"])
def test_output_times_may_come_in_any_sequence(kind: Any) -> None:
    sol = solved(ic.SaveAt(ts=kind([0.25, 1.5])))
    assert sol.ts.tolist() == [0.25, 1.5]
    right(sol)


def test_numbers_of_many_output_times_in_one_step() -> None:
    ts = torch.linspace(0, 3, 1001, dtype=torch.float64)
    sol = solved(ic.SaveAt(ts=ts))
    assert sol.stats.steps_accepted < 200
    assert torch.equal(sol.ts, ts)
    right(sol)


@GRAD
def test_the_end_is_the_last_step_itself(grad: bool) -> None:
    ends = [
        solved(save, grad=grad).ys[-1]
        for save in (
            ic.SaveAt(),
            ic.SaveAt(ts=[1.0, 3.0]),
            ic.SaveAt(steps=True),
            ic.SaveAt(t1=True, dense=True),
        )
    ]
    assert all(torch.equal(end, ends[0]) for end in ends)


@GRAD
def test_the_start_is_y0_itself(grad: bool) -> None:
    sol = solved(ic.SaveAt(t0=True, ts=[0.0, 1.0]), grad=grad)
    assert sol.ts.tolist() == [0.0, 0.0, 1.0]
    assert torch.equal(sol.ys[:2], Y0.expand(2, 2))


@GRAD
def test_a_step_that_ends_at_an_output_time_is_one_row(grad: bool) -> None:
    arguments = {"solver": "rk4", "dt0": 0.5}
    sol = solved(ic.SaveAt(ts=[0.75, 1.0, 2.0], steps=True), grad=grad, **arguments)
    assert sol.ts.tolist() == [0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0]


@GRAD
@WAYS
def test_what_fn_returns_is_kept_instead(grad: bool, way: int) -> None:
    def reduce(t: Tensor, y: Tensor) -> dict[str, Tensor]:
        assert t.shape == ()
        return {"first": y[0], "twice": (2 * y, t)}

    ts = [0.0, way * 1.0, way * 2.5]
    sol = solved(ic.SaveAt(t0=True, t1=True, ts=ts, fn=reduce), way, grad)
    exact = swung(sol.ts)
    torch.testing.assert_close(sol.ys["first"], exact[:, 0], rtol=0, atol=1e-7)
    torch.testing.assert_close(sol.ys["twice"][0], 2 * exact, rtol=0, atol=1e-7)
    assert torch.equal(sol.ys["twice"][1], sol.ts)
    assert len(sol.ts) == 5


@GRAD
def test_fn_sees_the_state_as_the_user_gave_it(grad: bool) -> None:
    y0 = {"z": torch.ones(3, 2), "logp": (torch.zeros(3),)}

    def reduce(t: Tensor, y: Any) -> Tensor:
        return y["z"].sum() + y["logp"][0].sum()

    with torch.set_grad_enabled(grad):
        sol = ic.solve(
            lambda t, y: {"z": 0 * y["z"], "logp": (torch.ones(3),)},
            y0, 0, 2, save=ic.SaveAt(ts=[0.0, 1.0, 2.0], fn=reduce),
        )  # fmt: skip
    torch.testing.assert_close(sol.ys, torch.tensor([6.0, 9.0, 12.0]))


@GRAD
@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize("ts", [None, [2.0, 2.0]], ids=["no_ts", "ts"])
@pytest.mark.parametrize("fn", [None, lambda t, y: y * 1], ids=["state", "fn"])
def test_a_span_of_no_length_gives_y0(grad: bool, steps: bool, ts: Any, fn: Any) -> None:
    save = ic.SaveAt(t0=True, t1=True, ts=ts, steps=steps, dense=True, fn=fn)
    with torch.set_grad_enabled(grad):
        sol = ic.solve(swing, Y0, 2, 2, save=save)
    count = 2 + len(ts or [])
    assert sol.ts.tolist() == [2.0] * count
    assert torch.equal(sol.ys, Y0.expand(count, 2))
    assert sol.status is ic.Status.SUCCESS
    assert sol.t_end == 2.0
    assert sol.stats.steps_accepted == 0
    assert torch.equal(sol(2.0), Y0)
    assert torch.equal(sol(torch.tensor([2.0, 2.0])), Y0.expand(2, 2))


@pytest.mark.parametrize("method", one_of_each_kind(SOLVERS))
@GRAD
def test_saving_does_not_disturb_the_steps(method: Any, grad: bool) -> None:
    """Extra stages for dense output leave the next step as it was, to the last bit."""

    def run(save: ic.SaveAt) -> Tensor:
        with torch.set_grad_enabled(grad):
            options = {**either(method, 3), **within_reach(method, 1e-5)}
            return ic.solve(swing, Y0, 0, 3, save=save, **options).ys[-1]

    plain = run(ic.SaveAt())
    assert torch.equal(run(ic.SaveAt(ts=torch.linspace(0, 3, 40))), plain)
    assert torch.equal(run(ic.SaveAt(t1=True, dense=True)), plain)


@GRAD
def test_saved_states_do_not_alias_the_callers_tensors(grad: bool) -> None:
    y0 = Y0.clone()
    with torch.set_grad_enabled(grad):
        sol = ic.solve(swing, y0, 0, 1, save=ic.SaveAt(t0=True, t1=True))
        still = ic.solve(swing, y0, 1, 1)
    y0.fill_(9.0)
    assert torch.equal(sol.ys[0], Y0)
    assert torch.equal(still.ys[0], Y0)
