"""Gradients that mathematics knows: linear systems, shifts of time, fields of time alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import isocline as ic

from .adjoint_cases import ADJOINTS, EXACT, FEW, OUTPUTS, fresh_inputs, loss_of, mismatches

TIGHT = {"solver": "dop853", "rtol": 1e-11, "atol": 1e-11}
COTANGENT = torch.tensor([1.3, -0.7, 0.4], dtype=torch.float64)


def linear_system() -> tuple[Tensor, Tensor]:
    matrix = torch.tensor([[-0.3, 1.1, 0.2], [-0.9, -0.1, 0.5], [0.4, 0.3, -0.8]])
    return matrix.double().requires_grad_(), torch.tensor([1.0, -0.5, 0.8]).double()


@pytest.mark.parametrize("span", [(0.0, 1.5), (1.5, 0.0)], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", ADJOINTS)
def test_linear_system_against_the_matrix_exponential(name: str, span: tuple[float, float]) -> None:
    matrix, y0 = linear_system()
    y0.requires_grad_()
    t0, t1 = (torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in span)
    inputs = {"y0": y0, "A": matrix, "t0": t0, "t1": t1}
    exact = COTANGENT @ (torch.linalg.matrix_exp(matrix * (t1 - t0)) @ y0)
    want = torch.autograd.grad(exact, list(inputs.values()))
    solution = ic.solve(lambda t, y: matrix @ y, y0, t0, t1, adjoint=ADJOINTS[name], **TIGHT)
    found = torch.autograd.grad(COTANGENT @ solution.ys[-1], list(inputs.values()))
    pairs = [dict(zip(inputs, values, strict=True)) for values in (found, want)]
    assert not mismatches(*pairs, 1e-8)


@pytest.mark.parametrize("name", ADJOINTS)
def test_time_gradients_are_the_cotangent_along_the_field(name: str) -> None:
    """dL/dt1 = g.f(t1, y1), dL/dts_i = g_i.f(ts_i, y_i), and dL/dt0 = -a(t0).f(t0, y0)."""
    y0 = torch.tensor([0.8, -0.3, 0.5], dtype=torch.float64, requires_grad=True)
    t0, t1 = (torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in (0.1, 1.3))
    ts = torch.tensor([0.4, 0.9], dtype=torch.float64, requires_grad=True)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.sin(3 * t) * y.flip(0) - 0.5 * y**2

    save = ic.SaveAt(ts=ts, t1=True)
    ys = ic.solve(field, y0, t0, t1, save=save, adjoint=ADJOINTS[name], **TIGHT).ys
    weights = torch.outer(torch.tensor([1.0, -2.0, 0.5]).double(), COTANGENT)
    found = torch.autograd.grad((weights * ys).sum(), [y0, t0, t1, ts])
    with torch.no_grad():
        slopes = torch.stack([field(t, y) for t, y in zip([*ts, t1], ys, strict=True)])
        along = (weights * slopes).sum(1)
        at_start = -found[0] @ field(t0, y0)
    torch.testing.assert_close(found[1], at_start, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found[2], along[-1], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found[3], along[:2], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ADJOINTS)
def test_shifting_all_times_of_an_autonomous_field_changes_nothing(name: str) -> None:
    y0 = torch.tensor([0.8, -0.3], dtype=torch.float64)
    t0, t1 = (torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in (0.0, 1.0))
    ts = torch.tensor([0.0, 0.3, 0.7], dtype=torch.float64, requires_grad=True)
    save = ic.SaveAt(ts=ts, t1=True)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[1], -y[0].sin()])

    ys = ic.solve(field, y0, t0, t1, save=save, adjoint=ADJOINTS[name], **TIGHT).ys
    g0, g1, gs = torch.autograd.grad((ys[:, 0] ** 2).sum() + ys[-1].sum(), [t0, t1, ts])
    assert g1.abs() > 0.1
    assert abs(float(g0 + g1 + gs.sum())) < 1e-7


@pytest.mark.parametrize("name", ADJOINTS)
def test_field_of_time_alone_hands_the_cotangent_through(name: str) -> None:
    """y1 = y0 + int f: dy1/dy0 is the identity, and dL/dt1 is the integrand."""
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    t1 = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)
    solution = ic.solve(
        lambda t, y: torch.stack([t.cos(), t**2]), y0, 0.0, t1, adjoint=ADJOINTS[name], **TIGHT
    )
    torch.testing.assert_close(
        solution.ys[-1].detach(), 1 + torch.stack([t1.sin(), t1**3 / 3]).detach()
    )
    g_y, g_t = torch.autograd.grad(COTANGENT[:2] @ solution.ys[-1], [y0, t1])
    torch.testing.assert_close(g_y, COTANGENT[:2])
    slope = torch.stack([t1.cos(), t1**2]).detach()
    torch.testing.assert_close(g_t, COTANGENT[:2] @ slope, rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", EXACT)
def test_dense_output_of_a_field_of_time_alone(name: str) -> None:
    """Its slopes carry no gradient at all; that of the state must still come through."""
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    solution = ic.solve(
        lambda t, y: torch.stack([t.cos(), t**2]),
        y0, 0.0, 1.0, save=ic.SaveAt(dense=True), adjoint=EXACT[name],
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(COTANGENT[:2] @ solution(0.37), y0)
    torch.testing.assert_close(gradient, COTANGENT[:2])


@pytest.mark.parametrize("name", EXACT)
def test_dense_output_is_differentiable_in_the_time_asked_for(name: str) -> None:
    y0 = torch.tensor([0.5, 1.0], dtype=torch.float64, requires_grad=True)
    save = ic.SaveAt(dense=True)
    solution = ic.solve(lambda t, y: -t * y, y0, 0.0, 2.0, save=save, adjoint=EXACT[name], **TIGHT)
    t = torch.tensor([0.0, 0.4, 1.1, 2.0], dtype=torch.float64, requires_grad=True)
    values = solution(t)
    exact = torch.exp(-(t**2) / 2).unsqueeze(1) * y0
    want = torch.autograd.grad(exact.sin().sum(), [t, y0])
    found = torch.autograd.grad(values.sin().sum(), [t, y0])
    torch.testing.assert_close(found[0], want[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1], want[1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", FEW)
def test_what_fn_makes_of_the_time_is_differentiated_too(name: str) -> None:
    """With y constant, fn(t, y) = t*y has the derivative y in every output time."""
    y0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
    ts = torch.tensor([0.1, 0.5], dtype=torch.float64, requires_grad=True)
    save = ic.SaveAt(ts=ts, fn=lambda t, y: t * y)
    solution = ic.solve(lambda t, y: 0 * y, y0, 0.0, 1.0, save=save, adjoint=FEW[name])
    (gradient,) = torch.autograd.grad(solution.ys.sum(), ts)
    torch.testing.assert_close(gradient, torch.full_like(ts, 3.0))


@pytest.mark.parametrize("name", FEW)
def test_a_span_of_no_length_still_has_its_gradients(name: str) -> None:
    """y1 = y0 + (t1 - t0) f(t0, y0) to first order."""
    inputs = fresh_inputs()
    t0, t1 = (torch.tensor(0.6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    ys = ic.solve(lambda t, y: t * y**2, inputs["y0"], t0, t1, adjoint=FEW[name]).ys[-1]
    g_y, g0, g1 = torch.autograd.grad(COTANGENT[:2] @ ys, [inputs["y0"], t0, t1])
    along = COTANGENT[:2] @ (0.6 * inputs["y0"].detach() ** 2)
    torch.testing.assert_close(g_y, COTANGENT[:2])
    torch.testing.assert_close(torch.stack([g0, g1]), torch.stack([-along, along]))


@pytest.mark.parametrize("name", EXACT)
def test_gradients_add_up_over_outputs(name: str) -> None:
    """The gradient of a sum is the sum: a loss on some outputs must leave no trace in others."""
    inputs = fresh_inputs()
    loss = loss_of(inputs, OUTPUTS["ts"], adjoint=EXACT[name])
    once = torch.autograd.grad(loss, inputs["y0"])[0]
    twice = torch.autograd.grad(
        loss_of(inputs, OUTPUTS["ts"], adjoint=EXACT[name])
        + loss_of(inputs, OUTPUTS["ts"], adjoint=EXACT[name]),
        inputs["y0"],
    )[0]
    torch.testing.assert_close(twice, 2 * once, rtol=1e-13, atol=0)
