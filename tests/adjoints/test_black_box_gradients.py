"""Gradients of black boxes: the paper's adjoint, solved by black boxes too.

Every black box meets every output and direction; the quick suite runs a share of the product
(`pairwise`), and of what differs by the library alone one.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.nn import ImageClassifier, ODEBlock
from isocline.solvers import BLACK_BOXES, CVODE, Answer, SciPy

from ..known import called, swing
from .adjoint_cases import (
    OUTPUTS,
    central_differences,
    fresh_inputs,
    gradients_of,
    loss_of,
    mismatches,
)

EVERY = pytest.mark.parametrize("name", BLACK_BOXES)

TIGHT = {"rtol": 1e-9, "atol": 1e-9}


class OwnRK4:
    """A user's black box."""

    def integrate(self, field: Any, t0: float, t1: float, y0: Any, *, ts: Any, **_: Any) -> Answer:
        import numpy as np

        rows, t, y = [], t0, y0
        for end in ts:
            h = (end - t) / 30
            for _i in range(30):
                a = field(t, y)
                b = field(t + h / 2, y + h / 2 * a)
                c = field(t + h / 2, y + h / 2 * b)
                d = field(min(max(t + h, min(t0, t1)), max(t0, t1)), y + h * c)
                t, y = t + h, y + h / 6 * (a + 2 * b + 2 * c + d)
            t = end
            rows.append(y)
        return Answer(np.stack(rows), steps=30 * len(ts))


@pytest.fixture(scope="module")
def exact() -> dict[tuple[str, bool], Any]:
    """The gradients by the exact adjoint at a tolerance that leaves no doubt."""
    options: dict[str, Any] = {"solver": "dop853", "rtol": 1e-12, "atol": 1e-12}
    return {
        (output, reverse): gradients_of(OUTPUTS[output], reverse=reverse, **options)
        for output in ("t1", "t0_ts_t1", "fn_ts_t1")
        for reverse in (False, True)
    }


@pytest.mark.pairwise
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("output", ["t1", "t0_ts_t1", "fn_ts_t1"])
@EVERY
def test_gradients_are_those_of_the_exact_adjoint(
    name: str, output: str, reverse: bool, exact: dict[tuple[str, bool], Any]
) -> None:
    """To y0, t0, t1, ts, arguments, a parameter and a tensor closed over; no adjoint is named."""
    found = gradients_of(OUTPUTS[output], reverse=reverse, solver=name, **TIGHT)
    assert not mismatches(found, exact[output, reverse], rtol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "lsoda",
        pytest.param("vode_adams", marks=pytest.mark.slow),
        pytest.param("cvode_adams", marks=pytest.mark.slow),
    ],
)
def test_gradients_are_finite_differences_of_the_solve(name: str) -> None:
    options: dict[str, Any] = {"solver": name, "rtol": 1e-11, "atol": 1e-11}
    output = OUTPUTS["t0_ts_t1"]
    expected = central_differences(
        lambda inputs: loss_of(inputs, output, **options), fresh_inputs(), eps=1e-4
    )
    assert not mismatches(gradients_of(output, **options), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("forward", "reverse"),
    [
        ("lsoda", "tsit5"),
        ("tsit5", "lsoda"),
        (SciPy("VODE-Adams"), CVODE("Adams")),
        (OwnRK4(), None),
        (OwnRK4(), "dop853"),
        ("dop853", OwnRK4()),
    ],
    ids=called,
)
def test_either_way_may_have_its_own_solver(
    forward: Any, reverse: Any, exact: dict[tuple[str, bool], Any]
) -> None:
    adjoint = ic.Backsolve(solver=reverse)
    found = gradients_of(OUTPUTS["t0_ts_t1"], solver=forward, adjoint=adjoint, **TIGHT)
    assert not mismatches(found, exact["t0_ts_t1", False], rtol=1e-5)


@EVERY
def test_gradients_of_every_step(name: str) -> None:
    """d/dy0 of the sum over the black box's own steps, of a linear problem."""
    y0 = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)
    found = ic.solve(swing, y0, 0, 1, solver=name, save=ic.SaveAt(steps=True), rtol=1e-4)
    (gradient,) = torch.autograd.grad(found.ys.sum(), y0)
    angle = found.ts.sin()
    expected = torch.stack([angle.cos() - angle.sin(), angle.sin() + angle.cos()], 1).sum(0)
    assert len(found.ts) == found.stats.steps_accepted
    torch.testing.assert_close(gradient, expected, rtol=5e-3, atol=0)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
def test_gradients_of_other_numbers(name: str, dtype: torch.dtype) -> None:
    weight = torch.tensor([0.5, -0.7], dtype=dtype, requires_grad=True)
    y0 = torch.tensor([1.0, 2.0], dtype=dtype, requires_grad=True)
    end = ic.solve(lambda t, y: weight * y, y0, 0, 1, solver=name, rtol=1e-7, atol=1e-7).ys[-1]
    gradients = torch.autograd.grad(end.abs().square().sum(), [y0, weight])
    exact = y0 * weight.exp()
    expected = torch.autograd.grad(exact.abs().square().sum(), [y0, weight])
    for gradient, want in zip(gradients, expected, strict=True):
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient, want, rtol=1e-4, atol=0)


def test_evaluations_are_counted_both_ways() -> None:
    calls = 0

    def field(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return swing(t, y)

    y0 = torch.ones(2, requires_grad=True)
    found = ic.solve(field, y0, 0, 1, solver="lsoda")
    assert found.stats.nfe_forward == calls
    found.ys.sum().backward()
    assert found.stats.nfe_backward > 0
    assert found.stats.nfe == calls


# --- what cannot be done -------------------------------------------------------------------------


@pytest.mark.parametrize("adjoint", [ic.Direct(), ic.Checkpointed(), ic.Checkpointed(slots=2)])
@pytest.mark.parametrize("solver", ["lsoda", CVODE("Adams"), OwnRK4()], ids=called)
def test_other_adjoints_need_steps(solver: Any, adjoint: Any) -> None:
    y0 = torch.ones(2, requires_grad=True)
    with pytest.raises(ic.GradientError, match=r"black box: .*adjoint=Backsolve\(\)"):
        ic.solve(swing, y0, 0, 1, solver=solver, adjoint=adjoint)


def test_dense_output_has_no_gradient() -> None:
    y0 = torch.ones(2, requires_grad=True)
    with pytest.raises(ic.GradientError, match=r"under `torch.no_grad\(\)`"):
        ic.solve(swing, y0, 0, 1, solver="lsoda", save=ic.SaveAt(dense=True))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seminorm", True),
        ("norm", lambda y, adjoint, parameters: y.norm()),
        ("controller", ic.PID()),
        ("dt0", 0.1),
    ],
)
def test_a_black_box_has_its_own_way_back(option: str, value: Any) -> None:
    y0 = torch.ones(2, requires_grad=True)
    with pytest.raises(ic.InputError, match=f"`Backsolve.{option}`: .*Leave `Backsolve.{option}`"):
        ic.solve(swing, y0, 0, 1, solver="lsoda", adjoint=ic.Backsolve(**{option: value}))
    own = ic.Backsolve(solver="tsit5", **{option: value})
    ic.solve(swing, y0, 0, 1, solver="lsoda", adjoint=own).ys.sum().backward()
    assert y0.grad is not None


def test_a_reverse_solve_that_fails_says_so() -> None:
    """Backward from t = 1 the state is exp(60), and the limit on steps is soon reached."""
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    end = ic.solve(
        lambda t, y: -60.0 * (y - torch.cos(50 * t)), y0, 0, 1, solver="lsoda", max_steps=220
    ).ys
    with pytest.raises(ic.SolveError, match="the reverse solve of Backsolve stopped"):
        end.sum().backward()


# --- networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["lsoda", pytest.param("cvode_adams", marks=pytest.mark.slow)])
def test_an_ode_net_trains(solver: str) -> None:
    """The paper's classifier, small: its loss falls, and as fast as with the exact adjoint."""
    i, j = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    textures = torch.stack([i % 2, j % 2, (i + j) % 2, (i // 2 + j // 2) % 2]).float()
    labels = torch.arange(16) % 4
    noise = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images = textures[labels].unsqueeze(1) + 0.2 * noise

    def losses(name: str) -> list[float]:
        torch.manual_seed(1)
        model = ImageClassifier("odenet", "digits", channels=16, classes=4, solver=name)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
        found = []
        for _ in range(8):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        assert model.ode is not None
        assert 0 < model.ode.nfe_forward < 200
        assert (model.ode.nfe_backward > 0) or name == "tsit5"
        return found

    by_black_box, exactly = losses(solver), losses("tsit5")
    assert by_black_box == sorted(by_black_box, reverse=True)
    assert by_black_box[-1] < 0.9 * by_black_box[0]
    assert by_black_box == pytest.approx(exactly, abs=0.03)


def test_a_layer_keeps_its_black_box() -> None:
    linear = torch.nn.Linear(3, 3)
    block = ODEBlock(lambda t, y: linear(y), solver=CVODE("Adams", {"max_order": 4}))
    assert "CVODE(method='Adams'" in repr(block)
    x = torch.randn(5, 3, requires_grad=True)
    block(x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is not None for p in linear.parameters())
    named = ODEBlock(block.field, solver="cvode_adams")
    torch.testing.assert_close(named(x), block(x), rtol=1e-2, atol=1e-2)
