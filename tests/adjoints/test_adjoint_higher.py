"""Gradients of gradients: of every exact adjoint, to any order, as those of the whole graph."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isocline as ic

from ..known import swing
from .adjoint_cases import (
    AGAIN,
    CHECKPOINTED,
    DIRECT,
    FEW,
    OUTPUTS,
    Gradients,
    fresh_inputs,
    loss_of,
    mismatches,
    weights_like,
)
from .test_adjoint_memory import SIZE, no_collector, peak_states_of

__all__ = ["no_collector"]  # a fixture

KINDS = {name: FEW[name] for name in FEW if name in AGAIN}
RETAKING = {name: KINDS[name] for name in KINDS if name != "direct"}
COARSE = {"solver": "rk4", "dt0": 0.3}
ADAPTIVE = {"solver": "bosh3", "rtol": 1e-3, "atol": 1e-3}


def higher(adjoint: Any, output: str, order: int, **options: Any) -> Gradients:
    """Gradients of a function of gradients, of gradients of `loss_of`."""
    inputs = fresh_inputs()
    loss = loss_of(inputs, OUTPUTS[output], adjoint=adjoint, **options)
    for _ in range(order - 1):
        found = torch.autograd.grad(
            loss, list(inputs.values()), create_graph=True, allow_unused=True
        )
        loss = torch.stack(
            [(weights_like(g) * g.sin()).sum() for g in found if g is not None]
        ).sum()
    found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    return dict(zip(inputs, found, strict=True))


@functools.cache
def of_the_whole_graph(output: str, order: int, adaptive: bool) -> Gradients:
    return higher(DIRECT, output, order, **(ADAPTIVE if adaptive else COARSE))


@pytest.mark.parametrize(
    ("name", "output"),
    [
        *((name, output) for name in RETAKING for output in OUTPUTS),
        *((name, "dense_everything") for name in CHECKPOINTED if name not in RETAKING),
    ],
)
def test_second_derivatives_are_those_of_the_whole_graph(name: str, output: str) -> None:
    """In every input, times too, and mixed: of all kinds of output."""
    found = higher(CHECKPOINTED[name], output, 2, **COARSE)
    assert not mismatches(found, of_the_whole_graph(output, 2, False), 1e-12)


@pytest.mark.parametrize("name", KINDS)
def test_so_they_are_over_steps_that_a_controller_chose(name: str) -> None:
    found = higher(KINDS[name], "dense_everything", 2, **ADAPTIVE)
    assert not mismatches(found, of_the_whole_graph("dense_everything", 2, True), 1e-11)


@pytest.mark.parametrize("order", [3, 4])
@pytest.mark.parametrize("name", KINDS)
def test_and_so_is_every_further_one(name: str, order: int) -> None:
    found = higher(KINDS[name], "ts", order, **COARSE)
    assert not mismatches(found, of_the_whole_graph("ts", order, False), 1e-11)


@pytest.mark.parametrize("name", KINDS)
def test_against_finite_differences(name: str) -> None:
    def end(y0: Tensor, rate: Tensor, t1: Tensor) -> Tensor:
        field = lambda t, y: -rate * y**2 + t * y.flip(0)  # noqa: E731
        return ic.solve(field, y0, 0.0, t1, solver="rk4", dt0=0.2, adjoint=AGAIN[name]).ys[-1]

    inputs = tuple(torch.tensor(value, dtype=torch.float64) for value in ([1.0, 0.4], 0.7, 0.5))
    inputs = tuple(tensor.requires_grad_() for tensor in inputs)
    assert torch.autograd.gradcheck(end, inputs)
    assert torch.autograd.gradgradcheck(end, inputs)


@pytest.mark.parametrize("name", KINDS)
def test_the_hessian_of_a_flow_known_in_closed_form(name: str) -> None:
    """y' = -k y^2 from y0: y = y0 / (1 + k y0 t)."""

    def solved(given: Tensor) -> Tensor:
        y0, k, t1 = given
        sol = ic.solve(
            lambda t, y: -k * y**2, y0[None], 0.0, t1, rtol=1e-10, atol=1e-10,
            solver="dop853", adjoint=AGAIN[name],
        )  # fmt: skip
        return sol.ys[-1, 0]

    at = torch.tensor([0.8, 1.3, 0.6], dtype=torch.float64)
    exact = torch.autograd.functional.hessian(lambda x: x[0] / (1 + x[1] * x[0] * x[2]), at)
    found = torch.autograd.functional.hessian(solved, at)
    # The grid does not move with t1, so that the last step alone says how y bends there.
    torch.testing.assert_close(found[:2, :2], exact[:2, :2], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, found.T, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", AGAIN)
def test_a_gradient_penalty_trains_the_parameters(name: str) -> None:
    """|dL/dx|^2 for y(1) = exp(-k) x, L = y^2 / 2: exp(-4k) x^2, with -4 exp(-4k) x^2 in k."""
    field = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(field.weight, -0.7)
    x = torch.tensor([[0.5], [1.5]], dtype=torch.float64, requires_grad=True)
    sol = ic.solve(lambda t, y: field(y), x, 0.0, 1.0, rtol=1e-9, atol=1e-9, adjoint=AGAIN[name])
    (gradient,) = torch.autograd.grad(sol.ys[-1].square().sum() / 2, x, create_graph=True)
    gradient.square().sum().backward()
    whole = 4 * math.exp(-2.8) * 2.5
    torch.testing.assert_close(
        field.weight.grad, torch.full_like(field.weight, whole), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("name", KINDS)
def test_a_start_that_depends_on_what_the_field_uses(name: str) -> None:
    """And a cotangent that does: each way from the parameter counts once."""
    k = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y = ic.solve(
        lambda t, y: -k * y, (k**2)[None], 0.0, k.exp(), solver="rk4", dt0=0.1, adjoint=KINDS[name]
    ).ys[-1, 0]
    exact = k**2 * torch.exp(-k * k.exp())
    for value, want in ((y * k.sin(), exact * k.sin()), (y.sin(), exact.sin())):
        (first,) = torch.autograd.grad(value, k, create_graph=True)
        (second,) = torch.autograd.grad(first, k, retain_graph=True)
        (first_want,) = torch.autograd.grad(want, k, create_graph=True)
        (second_want,) = torch.autograd.grad(first_want, k, retain_graph=True)
        torch.testing.assert_close(first, first_want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(second, second_want, rtol=1e-3, atol=1e-3)


WAYS: dict[str, dict[str, Any]] = {
    "adams": {"solver": ic.Adams(), "rtol": 1e-5, "atol": 1e-5},
    "adams_moulton": {"solver": ic.AdamsMoulton(), "dt0": 0.1},
    "reversible": {"solver": ic.Reversible("bosh3"), "rtol": 1e-4, "atol": 1e-4},
    "alf": {"solver": ic.ALF(), "rtol": 1e-2, "atol": 1e-2},
    "leapfrog": {"solver": ic.Leapfrog(), "dt0": 0.1},
    "trbdf2": {"solver": ic.TRBDF2(), "dt0": 0.3},
    "rkc": {"solver": ic.RKC(), "rtol": 1e-4, "atol": 1e-4},
}


@pytest.mark.parametrize("way", WAYS)
def test_methods_that_carry_more_than_the_state_or_solve_equations(way: str) -> None:
    def second(adjoint: Any) -> dict[str, Tensor]:
        inputs = {
            "y0": torch.tensor([1.0, 0.4], dtype=torch.float64, requires_grad=True),
            "k": torch.tensor(0.8, dtype=torch.float64, requires_grad=True),
            "t0": torch.tensor(0.1, dtype=torch.float64, requires_grad=True),
        }
        y0, k, t0 = inputs.values()
        sol = ic.solve(
            lambda t, y: k * swing(t, y) - (k * y.sin()).flip(0) * t, y0, t0, 1.0,
            adjoint=adjoint, save=ic.SaveAt(ts=[0.35, 0.7], t1=True), **WAYS[way],
        )  # fmt: skip
        found = torch.autograd.grad(sol.ys.square().sum(), list(inputs.values()), create_graph=True)
        penalty = torch.stack([g.square().sum() for g in found]).sum()
        found = torch.autograd.grad(penalty, list(inputs.values()))
        return dict(zip(inputs, found, strict=True))

    want = second(ic.Direct())
    for adjoint in (ic.Checkpointed(), ic.Checkpointed(slots=2)):
        assert not mismatches(second(adjoint), want, 1e-9)


# --- manners ----------------------------------------------------------------------------------


def decayed(adjoint: Any, y0: Tensor, rate: Tensor, **options: Any) -> ic.Solution:
    return ic.solve(
        lambda t, y: -rate * y**2, y0, 0.0, 1.0, solver="rk4", dt0=0.25, adjoint=adjoint, **options
    )


def pair() -> tuple[Tensor, Tensor]:
    y0 = torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)
    return y0, torch.tensor(0.7, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_a_graph_that_is_asked_for_and_never_used_costs_nothing(name: str) -> None:
    """The same bits for the same number of evaluations."""
    found = []
    for create_graph in (False, True):
        y0, rate = pair()
        sol = decayed(CHECKPOINTED[name], y0, rate)
        gradients = torch.autograd.grad(
            sol.ys.square().sum(), (y0, rate), create_graph=create_graph
        )
        found.append((*(gradient.tolist() for gradient in gradients), sol.stats.nfe_backward))
    assert found[0] == found[1]


def hooked(adjoint: Any) -> list[Tensor]:
    """What hooks on start, parameter and a tensor between see of a gradient penalty."""
    y0, rate = pair()
    context = rate.exp()
    seen: list[Tensor] = []
    for tensor in (y0, rate, context):
        tensor.register_hook(lambda gradient: seen.append(gradient.detach().clone()))
    (first,) = torch.autograd.grad(decayed(adjoint, y0, context).ys.sum(), y0, create_graph=True)
    first.square().sum().backward()
    return sorted(seen, key=lambda tensor: tensor.sum().item())


@pytest.mark.parametrize("name", KINDS)
def test_hooks_see_whole_gradients_of_either_order(name: str) -> None:
    seen = hooked(KINDS[name])
    assert len(seen) == 4  # of y0 twice
    torch.testing.assert_close(seen, hooked(DIRECT))


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_the_graph_of_the_solve_may_be_gone_by_then(name: str) -> None:
    """A function of the start alone: what the forward pass kept was freed."""
    y0, rate = pair()
    ys = decayed(CHECKPOINTED[name], y0, rate).ys
    (first,) = torch.autograd.grad(ys.sum(), y0, create_graph=True, retain_graph=False)
    (second,) = torch.autograd.grad(first.sum(), y0)
    ones = torch.ones(2, dtype=torch.float64)
    y0, rate = pair()
    (want,) = torch.autograd.functional.vhp(lambda y: decayed(DIRECT, y, rate).ys.sum(), y0, ones)[
        1:
    ]
    torch.testing.assert_close(second, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", KINDS)
def test_second_derivatives_can_be_taken_again(name: str) -> None:
    y0, rate = pair()
    (first,) = torch.autograd.grad(
        decayed(KINDS[name], y0, rate).ys.square().sum(), y0, create_graph=True
    )
    one, other = (torch.autograd.grad(first.sum(), rate, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_what_is_changed_in_place_before_the_second_backward_is_an_error(name: str) -> None:
    y0, rate = pair()
    ys = decayed(CHECKPOINTED[name], y0, rate).ys
    (first,) = torch.autograd.grad(ys.sum(), y0, create_graph=True)
    with torch.no_grad():
        rate.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        first.sum().backward()


@pytest.mark.parametrize("name", KINDS)
def test_evaluations_of_second_derivatives_are_counted(name: str) -> None:
    calls: list[float] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        calls.append(float(t))
        return -(y**2)

    y0, _ = pair()
    sol = ic.solve(field, y0, 0.0, 1.0, solver="rk4", dt0=0.25, adjoint=KINDS[name])
    (first,) = torch.autograd.grad(sol.ys.sum(), y0, create_graph=True)
    first.sum().backward()
    assert sol.stats.nfe_forward + sol.stats.nfe_backward == len(calls)


# --- what they cost ---------------------------------------------------------------------------


def peak_of_second_order(adjoint: Any, steps: int) -> float:
    """Most states alive at once from the solve to a second derivative."""

    def twice(adjoint: Any) -> None:
        rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        y0 = torch.ones(SIZE, dtype=torch.float64, requires_grad=True)
        ys = ic.solve(
            lambda t, y: (rate * y).cos(), y0, 0.0, 1.0, solver="rk4", dt0=1 / steps,
            adjoint=adjoint,
        ).ys  # fmt: skip
        (first,) = torch.autograd.grad(ys.square().sum(), y0, create_graph=True)
        first.square().sum().backward()

    return peak_states_of(lambda: twice(adjoint))


@pytest.mark.usefixtures("no_collector")
def test_memory_of_second_derivatives_does_not_grow_with_the_steps() -> None:
    """As that of first ones; `Direct` guards the measurement."""
    few, many = (peak_of_second_order(ic.Checkpointed(slots=3), steps) for steps in (8, 24))
    assert many <= few + 2.5
    few, many = (peak_of_second_order(DIRECT, steps) for steps in (8, 24))
    assert many > few + 60


@pytest.mark.usefixtures("no_collector")
def test_without_slots_it_is_three_states_a_step() -> None:
    """That of the first derivative, and the same once more with a tangent."""
    few, many = (peak_of_second_order(ic.Checkpointed(graph_budget=0), n) for n in (8, 24))
    assert many <= few + 3 * 16 + 2.5


def test_complex_states() -> None:
    def second(adjoint: Any) -> list[Tensor]:
        y0 = torch.tensor([1 + 0.5j, 0.3 - 1j], dtype=torch.complex128, requires_grad=True)
        k = torch.tensor(0.4 + 0.9j, dtype=torch.complex128, requires_grad=True)
        sol = ic.solve(
            lambda t, y: k * y * y.conj().flip(0), y0, 0.0, 0.7, solver="rk4", dt0=0.2,
            save=ic.SaveAt(ts=[0.3, 0.7]), adjoint=adjoint,
        )  # fmt: skip
        found = torch.autograd.grad(sol.ys.abs().sum(), (y0, k), create_graph=True)
        penalty = torch.stack([(g * g).real.sum() + g.imag.sum() for g in found]).sum()
        return list(torch.autograd.grad(penalty, (y0, k)))

    for adjoint in (ic.Checkpointed(), ic.Checkpointed(slots=2)):
        torch.testing.assert_close(second(adjoint), second(DIRECT), rtol=1e-12, atol=1e-13)
