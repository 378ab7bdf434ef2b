"""Gradients through implicit steps: against finite differences, twice, and along every adjoint.

Of products with adjoints the quick suite runs a share (`in_turn`, `pairwise`).
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isocline as ic
from isocline.solvers.implicit import IMPLICIT, equations

from ..adjoints.adjoint_cases import (
    CHECKPOINTED,
    DIRECT,
    OUTPUTS,
    Gradients,
    Output,
    central_differences,
    fresh_inputs,
    gradients_of,
    loss_of,
    mismatches,
)

METHODS = list(IMPLICIT.values())
EVERY = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
FEW = pytest.mark.parametrize(
    "method", [ic.Trapezoid, ic.GaussLegendre4, ic.TRBDF2], ids=lambda method: method.__name__
)
Method = Any
DTYPE = torch.float64

EVERYTHING = Output(t0=True, t1=True, ts=True)
LONG = {"dt0": 0.4}
ONE_STEP = {"dt0": 5.0}


def stiff_inputs() -> tuple[Tensor, ...]:
    """y0, matrix, drive and h: all require grad."""
    values = [
        [[0.7, -0.3], [0.2, 1.1]],
        [[-50.0, 3.0], [1.0, -2.0]],
        [0.5, -0.2],
        0.3,
    ]
    return tuple(torch.tensor(v, dtype=DTYPE, requires_grad=True) for v in values)


def one_step(
    method: Method, y0: Tensor, matrix: Tensor, drive: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """The end of one step, and a state within it."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y) @ matrix.T + drive * torch.sin(3 * t) * y.flip(-1) ** 2

    sol = ic.solve(
        field, y0, 0.1, 0.1 + h, solver=method(), dt0=1.0, adjoint=DIRECT,
        save=ic.SaveAt(ts=torch.stack([0.1 + 0.4 * h]), t1=True),
    )  # fmt: skip
    return sol.ys[0], sol.ys[1]


# --- finite differences ----------------------------------------------------------------------


@EVERY
def test_a_stiff_step_is_differentiated_exactly(method: Method) -> None:
    function = functools.partial(one_step, method)
    assert torch.autograd.gradcheck(function, stiff_inputs(), atol=1e-7, rtol=1e-5)


@EVERY
def test_and_so_is_its_gradient(method: Method) -> None:
    function = functools.partial(one_step, method)
    # Along random directions rather than every element.
    assert torch.autograd.gradgradcheck(
        function, stiff_inputs(), atol=1e-6, rtol=1e-4, fast_mode=True
    )


@EVERY
@pytest.mark.parametrize("linear", [True, False])
def test_a_third_derivative_is_refused(method: Method, linear: bool) -> None:
    y0, matrix, drive, h = stiff_inputs()
    end = one_step(method, y0, matrix, drive, h)[1]
    first = torch.autograd.grad((end if linear else end.sin()).sum(), matrix, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), matrix, create_graph=True)[0]
    assert second.abs().max() > 0
    with pytest.raises(ic.GradientError, match="differentiated 2 times"):
        torch.autograd.grad(second.sum(), matrix)


@FEW
def test_times_steps_and_outputs_have_their_gradients(method: Method) -> None:
    """In one step, where the grid does not stay behind when its ends move."""
    options = {"solver": method(), "adjoint": DIRECT, **ONE_STEP}
    inputs = fresh_inputs()
    expected = central_differences(lambda x: loss_of(x, EVERYTHING, **options), inputs, 1e-5)
    assert not mismatches(gradients_of(EVERYTHING, **options), expected, 1e-8)


# --- adjoints --------------------------------------------------------------------------------


@functools.cache
def direct(method: Method, output: str, reverse: bool = False) -> Gradients:
    return gradients_of(OUTPUTS[output], reverse=reverse, adjoint=DIRECT, solver=method(), **LONG)


@pytest.mark.pairwise
@FEW
@pytest.mark.parametrize("output", ["t1", "steps_ts", "dense_everything"])
@pytest.mark.parametrize("name", ["checkpointed", "no_graphs", "some_graphs", "slots1"])
def test_checkpointed_is_direct(method: Method, output: str, name: str) -> None:
    chosen, adjoint = OUTPUTS[output], CHECKPOINTED[name]
    found = gradients_of(chosen, adjoint=adjoint, solver=method(), **LONG)
    assert not mismatches(found, direct(method, output), 1e-12)


@EVERY
def test_checkpointed_is_direct_in_reverse(method: Method) -> None:
    chosen = OUTPUTS["dense_everything"]
    adjoint = ic.Checkpointed(slots=2)
    found = gradients_of(chosen, reverse=True, adjoint=adjoint, solver=method(), **LONG)
    assert not mismatches(found, direct(method, "dense_everything", True), 1e-12)


def test_backsolve_steps_with_them_as_well() -> None:
    options = {"solver": ic.GaussLegendre6(), "dt0": 0.05}
    expected = gradients_of(OUTPUTS["t1"], adjoint=DIRECT, times=False, **options)
    found = gradients_of(OUTPUTS["t1"], adjoint=ic.Backsolve(), times=False, **options)
    assert not mismatches(found, expected, 1e-8)


# --- what is differentiated ------------------------------------------------------------------


def along(loss: Any, tensor: Tensor, direction: Tensor, eps: float = 1e-6) -> float:
    """The slope of a loss by central differences in the place of a tensor."""
    with torch.no_grad():
        kept = tensor.clone()
        values = []
        for sign in (1, -1):
            tensor.copy_(kept + sign * eps * direction)
            values.append(loss().item())
        tensor.copy_(kept)
    return (values[0] - values[1]) / (2 * eps)


def direction_of(tensor: Tensor) -> Tensor:
    return torch.cos(torch.arange(tensor.numel(), dtype=DTYPE) * 1.3 + 0.2).view(tensor.shape)


class Normalised(nn.Module):
    """A field whose samples depend on each other, which blocks for each sample know nothing of."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(torch.randn(3, 3, generator=generator, dtype=DTYPE))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        z = (y - y.mean(0)) / (y.var(0, unbiased=False) + 1e-2).sqrt()
        return 2 * torch.tanh(z @ self.weight) - 3 * torch.cos(t) * y


@pytest.mark.in_turn
@EVERY
@pytest.mark.parametrize("adjoint", [DIRECT, ic.Checkpointed()], ids=["direct", "checkpointed"])
def test_coupled_samples_are_differentiated_together(method: Method, adjoint: Any) -> None:
    """The parameter alone requires grad, not the state that the first step starts from."""
    field = Normalised()
    y0 = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=DTYPE)

    def loss() -> Tensor:
        sol = ic.solve(field, y0, 0.0, 0.8, solver=method(), dt0=0.4, adjoint=adjoint)
        return (sol.ys.sin() * direction_of(sol.ys)).sum()

    (found,) = torch.autograd.grad(loss(), field.weight)
    direction = direction_of(field.weight)
    expected = along(loss, field.weight, direction)
    assert (found * direction).sum().item() == pytest.approx(expected, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(("few", "most"), [(64, 1024), (8, 1024), (8, 16)])
@FEW
def test_a_large_sample_has_its_gradient_with_and_without_matrices(
    method: Method, few: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(equations, "_FEW_COLUMNS", few)
    monkeypatch.setattr(equations, "_MOST_COLUMNS", most)
    y0 = torch.sin(torch.linspace(0, 3, 40, dtype=DTYPE)).requires_grad_()

    def loss() -> Tensor:
        def field(t: Tensor, y: Tensor) -> Tensor:
            inside = (y[2:] - 2 * y[1:-1] + y[:-2]) * 30
            return torch.cat([y[:1] * 0, inside, y[:1] * 0]) - y**3

        ys = ic.solve(field, y0, 0.0, 0.2, solver=method(), dt0=0.1).ys
        return (ys * direction_of(ys)).sum()

    (found,) = torch.autograd.grad(loss(), y0)
    direction = direction_of(y0)
    expected = along(loss, y0, direction)
    assert (found * direction).sum().item() == pytest.approx(expected, rel=1e-7)


@EVERY
def test_a_complex_state_is_differentiated_as_its_two_parts(method: Method) -> None:
    parts = torch.tensor([[0.3, -1.2], [0.8, 0.5]], dtype=DTYPE)

    def gradient(complex_: bool) -> Tensor:
        start = parts.clone().requires_grad_()

        def field(t: Tensor, y: Tensor) -> Tensor:
            z = y if complex_ else torch.view_as_complex(y.view(2, 2))
            rate = 1j * z * z.abs() ** 2 - z * torch.cos(t)
            return rate if complex_ else torch.view_as_real(rate)

        y0 = torch.view_as_complex(start) if complex_ else start
        ys = ic.solve(field, y0, 0.0, 1.0, solver=method(), dt0=0.5).ys
        ends = torch.view_as_real(ys) if complex_ else ys
        return torch.autograd.grad((ends * direction_of(ends)).sum(), start)[0]

    torch.testing.assert_close(gradient(True), gradient(False), rtol=1e-11, atol=1e-12)


@FEW
def test_a_field_that_takes_gradients_itself_is_differentiated(method: Method) -> None:
    """A gradient flow: the field is the gradient of a potential, by autograd."""
    weight = torch.tensor([[1.0, 0.4], [-0.3, 0.8]], dtype=DTYPE, requires_grad=True)
    y0 = torch.tensor([[0.5, -0.7], [1.1, 0.2]], dtype=DTYPE)

    def field(t: Tensor, y: Tensor) -> Tensor:
        recording = torch.is_grad_enabled()
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            potential = torch.log(torch.cosh(y @ weight)).sum()
            return -torch.autograd.grad(potential, y, create_graph=recording)[0]

    def loss() -> Tensor:
        ys = ic.solve(field, y0, 0.0, 1.0, solver=method(), dt0=0.5).ys
        return (ys * direction_of(ys)).sum()

    (found,) = torch.autograd.grad(loss(), weight)
    direction = direction_of(weight)
    assert (found * direction).sum().item() == pytest.approx(
        along(loss, weight, direction), rel=1e-7
    )


@EVERY
def test_a_field_that_does_not_look_at_the_state(method: Method) -> None:
    """The solution is proportional to the parameter, up to the start."""
    rate = torch.tensor(2.0, dtype=DTYPE, requires_grad=True)
    y0 = torch.ones(2, dtype=DTYPE)
    for part in (lambda t: 1.0, torch.cos):
        sol = ic.solve(
            lambda t, y, part=part: rate * part(t) * torch.ones_like(y), y0, 0.0, 1.0,
            solver=method(), dt0=0.5, adjoint=DIRECT,
        )  # fmt: skip
        (found,) = torch.autograd.grad(sol.ys.sum(), rate)
        assert found.item() == pytest.approx((sol.ys - y0).sum().item() / 2, rel=1e-13)


@EVERY
def test_nothing_to_differentiate_leaves_no_graph(method: Method) -> None:
    y0 = torch.ones(2, dtype=DTYPE)
    sol = ic.solve(lambda t, y: -y, y0, 0.0, 1.0, solver=method(), dt0=0.5, adjoint=DIRECT)
    assert not sol.ys.requires_grad


@EVERY
def test_float32_gradients_are_as_good_as_float32(method: Method) -> None:
    layer = nn.Linear(3, 3)
    nn.init.constant_(layer.weight, 0.3)
    y0 = torch.linspace(-1, 1, 12).view(4, 3)

    def gradient(dtype: torch.dtype) -> Tensor:
        field = layer.to(dtype)
        sol = ic.solve(
            lambda t, y: torch.tanh(field(y)) - 20 * y, y0.to(dtype), 0.0, 1.0, solver=method(),
            dt0=0.25,
        )  # fmt: skip
        ends = sol.ys + torch.ones((), dtype=dtype)
        return torch.autograd.grad(ends.square().sum(), field.weight)[0].double()

    fine = gradient(DTYPE)
    error = (gradient(torch.float32) - fine).abs().max() / fine.abs().max()
    assert error < 2e-5
