"""Gradients of per-sample stepping are those of the discrete solve, to every input."""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.adjoints.checkpoints import recomputed

from .lane_cases import (
    ADJOINTS,
    BATCH,
    CONTINUOUS,
    EXPLICIT,
    Net,
    inputs,
    off,
    oscillator,
    solved,
)

EVERY = pytest.mark.parametrize("adjoint", ADJOINTS)
WEIGHTS = torch.cos(torch.arange(2.0 * BATCH, dtype=torch.float64)).view(BATCH, 2)


def ragged_loss(field: Any, given: dict[str, Tensor], ts: Tensor, **options: Any) -> Tensor:
    """A loss on the starts, on states at output times of each sample, and on the ends."""
    lengths = torch.tensor([3, 0, 1, 2, 3, 2])
    save = ic.SaveAt(t0=True, ts=ts, lengths=lengths, t1=True)
    solution = solved(field, given, save=save, **options)
    ramp = torch.arange(solution.ys.numel(), dtype=torch.float64).view_as(solution.ys)
    return (torch.cos(1.3 * ramp) * solution.ys.sin()).sum()


def output_times(given: dict[str, Tensor]) -> Tensor:
    """Three output times of each sample, the first of them at its start, the last at its end."""
    parts = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    with torch.no_grad():
        ts = given["t0"].unsqueeze(1) + (given["t1"] - given["t0"]).unsqueeze(1) * parts
        ts[:, 2] = given["t1"]
    return ts.requires_grad_()


def all_gradients(field: Any, adjoint: Any, **options: Any) -> dict[str, Tensor]:
    given = inputs()
    ts = output_times(given)
    loss = ragged_loss(field, given, ts, adjoint=adjoint, **options)
    parameters = dict(field.named_parameters()) if isinstance(field, torch.nn.Module) else {}
    wanted = {**given, "ts": ts, **parameters}
    return dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))


@EVERY
@pytest.mark.parametrize("method", EXPLICIT, ids=lambda method: method.__name__)
def test_all_adjoints_give_the_gradient_of_the_recorded_operations(
    adjoint: str, method: Any
) -> None:
    torch.manual_seed(0)
    field = Net()
    tol = max(1e-6, 8.0 ** -float(method().error_order))
    options = {"solver": method(), "rtol": tol, "atol": tol}
    expected = all_gradients(field, ic.Direct(), **options)
    found = all_gradients(field, ADJOINTS[adjoint], **options)
    for name, gradient in expected.items():
        assert off(found[name], gradient) < 1e-13, name


# Steps of one length do not depend on the inputs but at the ends: differences are gradients.
STEADY: dict[str, Any] = {"solver": "tsit5", "controller": ic.Constant(), "dt0": 0.11}


@functools.cache
def differences() -> dict[tuple[str, int], float]:
    """Central differences of `ragged_loss`, in which no adjoint has a part."""
    given, eps = inputs(), 1e-6
    ts = output_times(given).detach()
    found = {}
    for name in ("y0", "mu"):
        for place in range(0, given[name].numel(), 2):
            shift = torch.zeros(given[name].numel(), dtype=torch.float64)
            shift[place] = eps
            losses = []
            for sign in (1.0, -1.0):
                moved = given[name].detach() + sign * shift.view_as(given[name])
                with torch.no_grad():
                    losses.append(ragged_loss(oscillator, {**given, name: moved}, ts, **STEADY))
            found[name, place] = float(losses[0] - losses[1]) / (2 * eps)
    return found


@EVERY
def test_gradients_are_differences_of_the_discrete_solve(adjoint: str) -> None:
    found = all_gradients(oscillator, adjoint=ADJOINTS[adjoint], **STEADY)
    for (name, place), expected in differences().items():
        assert float(found[name].reshape(-1)[place]) == pytest.approx(expected, rel=1e-6)


@EVERY
def test_gradients_of_times_are_the_field_there(adjoint: str) -> None:
    """With a tight tolerance dy(t1)/dt1 is the field, and dy(t)/dt at an output time likewise."""
    given = inputs()
    ts = given["t0"].detach().unsqueeze(1) * 0.5 + given["t1"].detach().unsqueeze(1) * 0.5
    ts.requires_grad_()
    save = ic.SaveAt(ts=ts, t1=True)
    options = {"rtol": 1e-8, "atol": 1e-8, "solver": "vern8", "adjoint": ADJOINTS[adjoint]}
    solution = solved(oscillator, given, save=save, **options)
    middle, end = solution.ys
    found = torch.autograd.grad((WEIGHTS * middle).sum(), ts, retain_graph=True)[0].squeeze(1)
    slope = oscillator(ts.squeeze(1), middle, given["mu"])
    assert off(found, (WEIGHTS * slope).sum(1)) < 1e-5
    found = torch.autograd.grad((WEIGHTS * end).sum(), given["t1"])[0]
    slope = oscillator(given["t1"], end, given["mu"])
    assert off(found, (WEIGHTS * slope).sum(1)) < 1e-6


@EVERY
@pytest.mark.parametrize("method", ["tsit5", "bosh3", "dop853"])
def test_second_derivatives_are_those_of_the_recorded_operations(adjoint: str, method: str) -> None:
    def penalty(adjoint: Any) -> list[Tensor]:
        torch.manual_seed(0)
        field, given = Net(), inputs(3)
        tol = {"rtol": 1e-4, "atol": 1e-4}
        end = solved(field, given, adjoint=adjoint, solver=method, **tol).ys[-1]
        wanted = [*given.values(), *field.parameters()]
        first = torch.autograd.grad(end.sin().sum(), wanted, create_graph=True)
        total = sum((gradient.square().sum() for gradient in first), torch.zeros(()).double())
        return list(torch.autograd.grad(total, wanted))

    for found, expected in zip(penalty(ADJOINTS[adjoint]), penalty(ic.Direct()), strict=True):
        assert off(found, expected) < 1e-12


@pytest.mark.parametrize("adjoint", [*ADJOINTS, *CONTINUOUS])
def test_a_lane_that_left_the_domain_for_a_try_does_not_spoil_gradients(adjoint: str) -> None:
    """A first step over the edge of a square root gives NaN, in the graph of all lanes."""
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return -scale * torch.sqrt(y)

    y0 = torch.tensor([[1.0], [0.01], [4.0]], dtype=torch.float64, requires_grad=True)
    t1 = torch.tensor([1.0, 0.15, 1.0], dtype=torch.float64)
    dt0 = ic.PerSample(torch.tensor([0.1, 0.149, 0.1]))
    solution = ic.solve(
        field,
        y0,
        0.0,
        t1,
        dt0=dt0,
        adjoint=(ADJOINTS | CONTINUOUS)[adjoint],
        stepping="per_sample",
        rtol=1e-8,
        atol=1e-10,
    )
    assert int(solution.stats.samples.steps_rejected[1]) > 0
    end = solution.ys[-1].squeeze(1)
    exact = (y0.detach().squeeze(1).sqrt() - t1 / 2).square()
    assert off(end.detach(), exact) < 1e-6
    of_y0, of_scale = torch.autograd.grad(end.sum(), [y0, scale])
    root = y0.detach().squeeze(1).sqrt()
    assert off(of_y0.squeeze(1), 1 - t1 / (2 * root)) < 1e-5
    assert float(of_scale) == pytest.approx(float((-(root - t1 / 2) * t1).sum()), rel=1e-5)


@EVERY
def test_many_cotangents_at_once_are_one_after_another(adjoint: str) -> None:
    given, tol = inputs(3), {"rtol": 1e-3, "atol": 1e-3}
    end = solved(oscillator, given, adjoint=ADJOINTS[adjoint], **tol).ys[-1]
    seeds = torch.eye(6, dtype=torch.float64).view(6, 3, 2)
    wanted = [given["y0"], given["mu"]]
    stacked = torch.autograd.grad(end, wanted, seeds, is_grads_batched=True, retain_graph=True)
    for row, seed in enumerate(seeds):
        single = torch.autograd.grad(end, wanted, seed, retain_graph=True)
        for found, expected in zip(stacked, single, strict=True):
            assert torch.allclose(found[row], expected, rtol=1e-12, atol=1e-14)


def test_a_second_backward_pass_takes_forgotten_steps_again() -> None:
    given = inputs()
    end = solved(oscillator, given).ys[-1]
    first = torch.autograd.grad(end.sum(), given["y0"], retain_graph=True)[0]
    assert torch.allclose(torch.autograd.grad(end.sum(), given["y0"])[0], first, rtol=1e-12)


@pytest.mark.parametrize("adjoint", [ic.Checkpointed(graph_budget=0), ic.Backsolve()], ids=str)
def test_samples_contribute_to_a_parameter_in_one_product_a_round(adjoint: Any) -> None:
    """Never one parameter gradient a sample: backward calls of the field do not grow with them."""
    torch.manual_seed(0)
    field = Net()
    calls = []
    for copies in (1, 40):
        given = {name: t.detach().repeat_interleave(copies, 0) for name, t in inputs().items()}
        solution = solved(field, given, adjoint=adjoint)
        solution.ys.sum().backward()
        calls.append(solution.stats.nfe_backward)
    assert calls[0] == calls[1]


@pytest.mark.parametrize("slots", [1, 3])
def test_steps_that_are_taken_again_are_counted_by_sample(slots: int) -> None:
    """Two samples take eight steps and one three, so five rounds in which the latter is at rest."""
    y0 = torch.ones(3, 1, dtype=torch.float64, requires_grad=True)
    solution = ic.solve(
        lambda t, y: -y, y0, 0.0, torch.tensor([8.0, 3.0, 8.0]), stepping="per_sample", dt0=1.0,
        solver="rk4", controller=ic.Constant(), adjoint=ic.Checkpointed(slots=slots),
    )  # fmt: skip
    solution.ys.sum().backward()
    counts = solution.stats.steps_recomputed
    if slots == 1:  # from the start for each round: round i is taken again 7 - i times
        assert counts == 2 * sum(range(8)) + sum(7 - i for i in range(3))
    else:
        assert 8 <= counts <= 2 * recomputed(8, slots) + 3 * 2
    kept = solved(oscillator, inputs(), adjoint=ic.Checkpointed(graph_budget=0))
    kept.ys.sum().backward()
    assert kept.stats.steps_recomputed == 0


@pytest.mark.parametrize("adjoint", [ic.Checkpointed(), ic.Backsolve()], ids=str)
def test_a_tensor_that_appears_later_is_an_error_and_no_silent_zero(adjoint: Any) -> None:
    class Later(torch.nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            if not bool((t > 0.5).any()):
                return -y
            late = torch.ones((), dtype=torch.float64, requires_grad=True)
            return -y * late

    y0 = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    found = ic.solve(Later(), y0, 0.0, 1.0, stepping="per_sample", adjoint=adjoint)
    with pytest.raises(ic.GradientError, match="came to depend"):
        found.ys.sum().backward()
