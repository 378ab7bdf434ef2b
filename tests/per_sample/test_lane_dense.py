"""The continuous solution of each sample, and functions of states in the place of states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isocline as ic

from .lane_cases import (
    ADJOINTS,
    BATCH,
    CONTINUOUS,
    EXPLICIT,
    Net,
    chosen,
    inputs,
    off,
    oscillator,
    solved,
)
from .test_lane_events import BOUNCE, GRAVITY, bounces, dropped

DENSE = ic.SaveAt(dense=True)
PARTS = torch.tensor([0.0, 0.001, 0.37, 0.99, 1.0], dtype=torch.float64)
COMPANIES = [[0], [5, 0], [3, 1, 2], [2, 2, 0, 2]]


def within(given: dict[str, Tensor]) -> Tensor:
    """Times of each sample from its start to its end, shape (samples, 5), without a graph."""
    t0, t1 = given["t0"].detach(), given["t1"].detach()
    times = t0.unsqueeze(1) + (t1 - t0).unsqueeze(1) * PARTS
    times[:, -1] = t1
    return times


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest number, or to 1: t1 hardly matters."""
    size = max(1.0, float(expected.detach().abs().max()))
    return float((found - expected).detach().abs().max()) / size


@pytest.mark.parametrize("method", EXPLICIT, ids=lambda method: method.__name__)
def test_it_is_the_interpolant_that_output_comes_from(method: Any) -> None:
    given = inputs()
    given["t1"] = torch.where(torch.arange(BATCH) % 2 == 0, given["t1"], -given["t1"]).detach()
    tol = max(1e-6, 8.0 ** -float(method().error_order))
    options = {"solver": method(), "rtol": tol, "atol": tol}
    times = within(given)
    with torch.no_grad():
        whole = solved(oscillator, given, save=DENSE, **options)
        rows = solved(oscillator, given, save=ic.SaveAt(ts=times), **options)
    assert whole.ys is None
    found = whole(ic.PerSample(times))
    assert found.shape == (5, BATCH, 2)
    assert off(found, rows.ys) < 1e-12
    for number in range(5):
        assert torch.equal(whole(ic.PerSample(times[:, number])), found[number])
    shared = torch.tensor([0.3, 0.3], dtype=torch.float64)  # within all that go forward
    ahead = [0, 2, 4]
    one = solved(oscillator, chosen(given, ahead), save=DENSE, **options)
    assert torch.equal(one(shared)[1], one(0.3))
    assert torch.equal(one(0.3), one(ic.PerSample(torch.full((3,), 0.3, dtype=torch.float64))))


def test_it_does_not_depend_on_the_batch_nor_change_what_is_saved() -> None:
    every = inputs()
    times = within(every)
    save = ic.SaveAt(t0=True, ts=times, t1=True, dense=True)
    with torch.no_grad():
        among = solved(oscillator, every, save=save)
        plain = solved(oscillator, every, save=ic.SaveAt(t0=True, ts=times, t1=True))
        assert torch.equal(among.ys, plain.ys)
        assert torch.equal(among.ts, plain.ts)
        for company in COMPANIES:
            own = solved(oscillator, chosen(every, company), save=DENSE)
            found = own(ic.PerSample(times[company]))
            assert torch.equal(found, among(ic.PerSample(times))[:, company])


@pytest.mark.parametrize("adjoint", [*ADJOINTS, *CONTINUOUS])
@pytest.mark.parametrize("saved", [False, True], ids=["dense", "beside"])
def test_gradients_are_those_of_output_at_the_same_times(adjoint: str, saved: bool) -> None:
    """To starts, times, arguments, weights, and to the times at which the solution is asked."""
    torch.manual_seed(0)
    field = Net()
    found = []
    for dense in (True, False):
        given = inputs()
        times = within(given)[:, 1:4].contiguous().requires_grad_()
        beside = within(given)[:, 2:3].contiguous() if saved else None
        if dense:
            kind = (ADJOINTS | CONTINUOUS)[adjoint]
            save = ic.SaveAt(ts=beside, t1=saved, dense=True)
            solution = solved(field, given, adjoint=kind, save=save)
            rows, others = solution(ic.PerSample(times)), solution.ys
        else:
            exact = ic.Direct()
            rows = solved(field, given, adjoint=exact, save=ic.SaveAt(ts=times)).ys
            others = None
            if saved:
                save = ic.SaveAt(ts=beside, t1=True)
                others = solved(field, given, adjoint=exact, save=save).ys
        loss = rows.sin().sum() + (0.0 if others is None else others.square().sum())
        wanted = [*given.values(), times, *field.parameters()]
        found.append(torch.autograd.grad(loss, wanted))
    near = 1e-5 if adjoint in CONTINUOUS else 1e-12
    for own, expected in zip(*found, strict=True):
        assert apart(own, expected) < near


@pytest.mark.parametrize("adjoint", ["checkpointed", "no_graphs", "slots3"])
def test_second_derivatives_are_those_of_the_recorded_operations(adjoint: str) -> None:
    def penalty(kind: Any) -> list[Tensor]:
        torch.manual_seed(0)
        field, given = Net(), inputs(3)
        tol = {"rtol": 1e-4, "atol": 1e-4}
        solution = solved(field, given, adjoint=kind, save=DENSE, **tol)
        middle = solution(ic.PerSample(within(given)[:, 2]))
        wanted = [*given.values(), *field.parameters()]
        first = torch.autograd.grad(middle.sin().sum(), wanted, create_graph=True)
        total = sum((gradient.square().sum() for gradient in first), torch.zeros(()).double())
        return list(torch.autograd.grad(total, wanted))

    for found, expected in zip(penalty(ADJOINTS[adjoint]), penalty(ic.Direct()), strict=True):
        assert apart(found, expected) < 1e-11


@pytest.mark.parametrize("adjoint", ["direct", "checkpointed", "slots3"])
def test_it_bounces_where_the_ball_does(adjoint: str) -> None:
    """Between events it is the parabola, and its gradient in the height that of the parabola."""
    heights = torch.tensor([0.7, 1.9, 3.0], dtype=torch.float64, requires_grad=True)
    solution = dropped(heights, save=DENSE, adjoint=ADJOINTS[adjoint])
    for part in (0.2, 0.55, 0.97):
        at = part * 2.0
        found = solution(at)
        for sample in range(3):
            height = heights[sample]
            times, _ = bounces(height, BOUNCE, GRAVITY)
            exact = height - GRAVITY * torch.tensor(at).double() ** 2 / 2
            before = [number for number, t in enumerate(times) if float(t.detach()) < at]
            if before:
                speed = (2 * height * GRAVITY).sqrt() * BOUNCE ** (before[-1] + 1)
                rest = at - times[before[-1]]
                exact = speed * rest - GRAVITY * rest**2 / 2
            assert float(found[sample, 0].detach()) == pytest.approx(
                float(exact.detach()), abs=1e-6
            )
            (own,) = torch.autograd.grad(found[sample, 0], heights, retain_graph=True)
            (expected,) = torch.autograd.grad(exact, heights)
            assert off(own, expected) < 1e-4


def test_samples_that_do_not_move_or_that_stop_early() -> None:
    y0 = torch.tensor([[1.0], [2.0], [0.5]], dtype=torch.float64)
    t1 = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
    solution = ic.solve(
        lambda t, y: y * y, y0, 0.0, t1, stepping="per_sample", save=DENSE, throw=False
    )
    assert solution.failed_samples == (1,)
    assert torch.equal(solution(0.0), y0)
    found = solution(ic.PerSample(torch.tensor([0.0, 0.25, -0.5])))
    assert torch.allclose(found, torch.tensor([[1.0], [4.0], [0.4]]).double(), rtol=1e-4)
    for wrong, sample in (([0.0, 0.6, 0.0], 1), ([0.1, 0.0, 0.0], 0), ([0.0, 0.0, 0.1], 2)):
        with pytest.raises(ic.InputError, match=f"for sample {sample}"):
            solution(ic.PerSample(torch.tensor(wrong)))
    for unfit in (torch.zeros(2, 2), ic.PerSample(torch.zeros(2)), ic.PerSample(0.0)):
        with pytest.raises(ic.InputError, match="PerSample"):
            solution(unfit)
    joint = ic.solve(lambda t, y: -y, y0, 0.0, 1.0, save=DENSE)
    with pytest.raises(ic.InputError, match="joint"):
        joint(ic.PerSample(torch.zeros(3)))
    still = ic.solve(lambda t, y: -y, y0, 0.0, 0.0, stepping="per_sample", save=DENSE)
    assert torch.equal(still(torch.zeros(2)), y0.expand(2, 3, 1))


def test_states_with_a_structure() -> None:
    def field(t: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"x": state["v"], "v": -state["x"]}

    start = {"x": torch.randn(4, 2, 3), "v": torch.randn(4, 2, 3)}
    tight = {"rtol": 1e-6, "atol": 1e-6}
    solution = ic.solve(field, start, 0.0, 2.0, stepping="per_sample", save=DENSE, **tight)
    times = torch.tensor([0.5, 1.0, 1.5, 2.0])
    found = solution(ic.PerSample(times))
    turned = times.view(-1, 1, 1)
    assert torch.allclose(
        found["x"], start["x"] * turned.cos() + start["v"] * turned.sin(), atol=1e-4
    )
    assert found["v"].dtype == torch.float32
    assert solution(torch.tensor([0.5, 1.0, 1.2]))["v"].shape == (3, 4, 2, 3)


@pytest.mark.parametrize("adjoint", [*ADJOINTS, *CONTINUOUS])
def test_a_function_of_states_in_their_place(adjoint: str) -> None:
    """Its times are the user's, its own parameters receive a gradient, and padding is zero."""
    torch.manual_seed(0)
    field, readout = Net(), nn.Linear(2, 3).double()
    given = inputs()
    given["t1"] = torch.where(torch.arange(BATCH) % 2 == 0, given["t1"], -given["t1"]).detach()
    given["t1"].requires_grad_()
    times, lengths = within(given), [5, 0, 2, 3, 5, 1]
    adjoint = (ADJOINTS | CONTINUOUS)[adjoint]

    def seen(t: Tensor, y: Tensor) -> dict[str, Tensor]:
        assert t.shape == y.shape[:1]
        return {"read": readout(y), "moved": t * y.square().sum(-1)}

    found = []
    for fn in (seen, None):
        save = ic.SaveAt(ts=times, lengths=lengths, t1=True, fn=fn)
        solution = solved(field, given, adjoint=adjoint, save=save)
        ys = solution.ys
        if fn is None:
            hidden = torch.arange(len(ys)).unsqueeze(1) >= solution.lengths
            flat = seen(solution.ts.reshape(-1), ys.flatten(0, 1))
            ys = {
                name: leaf.unflatten(0, ys.shape[:2]).masked_fill(
                    hidden.view(*hidden.shape, *[1] * (leaf.ndim - 1)), 0.0
                )
                for name, leaf in flat.items()
            }
        loss = ys["read"].sin().sum() + ys["moved"].sum()
        wanted = [given["y0"], given["mu"], *field.parameters(), *readout.parameters()]
        found.append((ys, torch.autograd.grad(loss, wanted)))
    (own, own_gradients), (exact, exact_gradients) = found
    assert own["read"].shape == (6, BATCH, 3)
    for name in own:
        assert torch.allclose(own[name], exact[name], rtol=1e-13, atol=1e-14)
    for one, other in zip(own_gradients, exact_gradients, strict=True):
        assert off(one, other) < 1e-12
