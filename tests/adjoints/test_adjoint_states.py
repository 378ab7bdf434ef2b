"""States of every kind, and parameters wired in every way: gradients against `Direct`.

Every case meets one adjoint of each kind in the quick suite; the other schedules are slow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import isocline as ic

from .adjoint_cases import ADJOINTS, CONTINUOUS, RECOMPUTING, mismatches

TIGHT = {"solver": "dop853", "rtol": 1e-10, "atol": 1e-10}
Case = Callable[[Any], dict[str, Tensor | None]]


def solve(field: Any, y0: Any, adjoint: Any, **options: Any) -> Any:
    return ic.solve(field, y0, 0.0, 1.0, adjoint=adjoint, **{**TIGHT, **options}).ys


def double(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


class Pair(NamedTuple):
    position: Tensor
    velocity: Tensor


def tuple_state(adjoint: Any) -> dict[str, Tensor | None]:
    a, b, p = double(0.3, 0.9), double([0.1, -0.5, 0.7]), double(0.8)

    def field(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        u, v = state
        return -p * u * v.sum(), (t * u.sum() - v**2) * p

    u, v = solve(field, (a, b), adjoint, save=ic.SaveAt(ts=[0.3, 1.0]))
    (u.square().sum() + v.sin().sum()).backward()
    return {"a": a.grad, "b": b.grad, "p": p.grad}


def nested_state(adjoint: Any) -> dict[str, Tensor | None]:
    a, b, c = double([0.3, 0.9]), double([0.1, 0.5]), double(1.1)

    def field(t: Tensor, y: dict[str, Any]) -> dict[str, Any]:
        pair = y["pair"]
        return {
            "pair": Pair(pair.velocity, -c * pair.position.sin()),
            "list": [y["list"][0].cos() * pair.position.sum()],
        }

    ys = solve(field, {"pair": Pair(a, b), "list": [c.expand(2, 3)]}, adjoint)
    (ys["pair"].position.square().sum() + ys["list"][0].sum()).backward()
    return {"a": a.grad, "b": b.grad, "c": c.grad}


def complex_state(adjoint: Any) -> dict[str, Tensor | None]:
    z0 = torch.tensor([0.4 + 0.3j, -0.2 + 0.9j], dtype=torch.complex128, requires_grad=True)
    w = torch.tensor([0.3 - 0.8j], dtype=torch.complex128, requires_grad=True)
    rate, t1 = double(0.7), torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    options = {**TIGHT, "adjoint": adjoint, "save": ic.SaveAt(ts=[0.5], t1=True)}
    ys = ic.solve(lambda t, z: w * z * z.conj() + 1j * rate * t * z, z0, 0.0, t1, **options).ys
    (ys.abs().square() + ys.imag).sum().backward()
    return {"z0": z0.grad, "w": w.grad, "rate": rate.grad, "t1": t1.grad}


def complex_parameter(adjoint: Any) -> dict[str, Tensor | None]:
    """In a real equation: both its parts have a gradient."""
    c = torch.tensor(0.5 + 0.3j, dtype=torch.complex128, requires_grad=True)
    y0 = double(1.0, 2.0)
    solve(lambda t, y: (c * c * y).imag - 0.1 * y, y0, adjoint).square().sum().backward()
    return {"c": c.grad, "y0": y0.grad}


def mixed_precision(adjoint: Any) -> dict[str, Tensor | None]:
    """Single-precision parameters in a double-precision state, and the converse."""
    p = torch.tensor(0.3, dtype=torch.float32, requires_grad=True)
    a, b = double(0.3, 0.9), torch.tensor([0.2, 0.4], dtype=torch.float32, requires_grad=True)
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    u, v = solve(lambda t, s: (s[1] * p - s[0], s[0] * p.double()), (a, b), adjoint, **tolerance)
    (u.sum() + v.square().sum()).backward()
    return {"p": p.grad, "a": a.grad, "b": b.grad}


def unused_and_frozen(adjoint: Any) -> dict[str, Tensor | None]:
    net, spare = nn.Linear(2, 2).double(), nn.Linear(2, 2).double()
    net.bias.requires_grad_(False)
    module = nn.ModuleDict({"net": net, "spare": spare})
    solve(lambda t, y: module["net"](y).tanh(), torch.ones(1, 2).double(), adjoint).sum().backward()
    assert net.bias.grad is None
    return {"weight": net.weight.grad, "spare": spare.weight.grad}


def used_at_some_times(adjoint: Any) -> dict[str, Tensor | None]:
    early, late = nn.Linear(2, 2).double(), nn.Linear(2, 2).double()
    module = nn.ModuleList([early, late])
    options = {"controller": ic.PID(stops=(0.5,))}
    field = lambda t, y: module[int(float(t) > 0.5)](y).tanh()  # noqa: E731
    solve(field, torch.ones(1, 2).double(), adjoint, **options).sum().backward()
    return {"early": early.weight.grad, "late": late.weight.grad}


def shared_parameter(adjoint: Any) -> dict[str, Tensor | None]:
    one, two = nn.Linear(2, 2).double(), nn.Linear(2, 2).double()
    two.weight = one.weight
    field = nn.Sequential(one, nn.Tanh(), two)
    solve(lambda t, y: field(y), torch.ones(1, 2).double(), adjoint).sum().backward()
    return {"weight": one.weight.grad, "bias": two.bias.grad}


def encoder_outside(adjoint: Any) -> dict[str, Tensor | None]:
    """A closed-over tensor that is not a leaf."""
    encoder, x = nn.Linear(3, 2).double(), torch.ones(3).double()
    context = encoder(x).tanh()
    solve(lambda t, y: context * y - y**2, double(0.4, 0.8), adjoint).sum().backward()
    return {"weight": encoder.weight.grad, "bias": encoder.bias.grad}


def encoder_beside(adjoint: Any) -> dict[str, Tensor | None]:
    """The model is held as well: the encoder's own parameters must not be counted twice."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.net = nn.Linear(2, 2).double(), nn.Linear(4, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            context = self.encoder(x).tanh()
            return solve(
                lambda t, y: self.net(torch.cat([y, context], -1)).tanh(), x, adjoint
            ).sum()

    model = Model()
    model(torch.ones(3, 2).double()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def used_inside_and_before(adjoint: Any) -> dict[str, Tensor | None]:
    """One parameter in the field itself and in a tensor made from it before the solve."""
    w = double(0.5, 0.3)
    doubled, grown = w * 2, w.exp()
    solve(lambda t, y: 0.1 * w - doubled * y / grown, double(1.0, 2.0), adjoint).sum().backward()
    return {"w": w.grad}


def one_context_from_another(adjoint: Any) -> dict[str, Tensor | None]:
    x = double(0.5, 0.3)
    first = x.exp()
    second = first.sin()
    args = (first, {"deep": [second]})
    solve(
        lambda t, y, a, b: a * y - b["deep"][0] * y**2, torch.ones(2).double(), adjoint, args=args
    ).sum().backward()
    return {"x": x.grad}


def successive(adjoint: Any) -> dict[str, Tensor | None]:
    """The second solve starts where the first ended, with the same module."""
    net, y0 = nn.Linear(2, 2).double(), double([0.3, 0.7])
    field = lambda t, y: net(y).tanh()  # noqa: E731
    middle = solve(field, y0, adjoint)[-1]
    end = solve(field, middle, adjoint)[-1]
    (end.sum() + (middle**2).sum()).backward()
    return {"y0": y0.grad, "weight": net.weight.grad}


def successive_in_closure(adjoint: Any) -> dict[str, Tensor | None]:
    """The second solve's field closes over the first one's answer and its module."""
    net, y0 = nn.Linear(2, 2).double(), double([0.3, 0.7])
    middle = solve(lambda t, y: net(y).tanh(), y0, adjoint)[-1]
    end = solve(lambda t, y: net(y) * middle, y0, adjoint)[-1]
    end.sum().backward()
    return {"y0": y0.grad, "weight": net.weight.grad}


def solve_in_the_field(adjoint: Any) -> dict[str, Tensor | None]:
    p = double(0.3)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return -p * solve(lambda s, z: -p * z * z, y, adjoint, solver="rk4", dt0=0.5)[-1]

    y0 = double(1.0, 2.0)
    solve(field, y0, adjoint, solver="rk4", dt0=0.25).sum().backward()
    return {"p": p.grad, "y0": y0.grad}


def some_outputs_unused(adjoint: Any) -> dict[str, Tensor | None]:
    y0, w = double([0.3, 0.7], [0.1, -0.4]), double(0.9)
    save = ic.SaveAt(t0=True, ts=[0.2, 0.6], t1=True)
    ys = solve(lambda t, y: (w * y).sin() - t, y0, adjoint, save=save)
    ys[2, 0].square().sum().backward()
    return {"y0": y0.grad, "w": w.grad}


CASES: dict[str, Case] = {
    case.__name__: case
    for case in (
        tuple_state, nested_state, complex_state, complex_parameter, mixed_precision,
        unused_and_frozen, used_at_some_times, shared_parameter, encoder_outside,
        encoder_beside, used_inside_and_before, one_context_from_another, successive,
        successive_in_closure, solve_in_the_field, some_outputs_unused,
    )
}  # fmt: skip


COARSE = ("mixed_precision", "solve_in_the_field")
"""Solved too loosely for the gradient of the discrete solve to be that of the exact one."""


def measured(case: str, adjoint: Any) -> dict[str, Tensor | None]:
    torch.manual_seed(0)
    return CASES[case](adjoint)


@functools.cache
def direct(case: str) -> dict[str, Tensor | None]:
    return measured(case, ADJOINTS["direct"])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "name",
    [
        *RECOMPUTING,  # one of each kind; how states are wired is no matter of the schedule
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ADJOINTS
            if name not in (*RECOMPUTING, "direct")
        ),
    ],
)
def test_gradients_are_those_of_direct(name: str, case: str) -> None:
    if name in CONTINUOUS:
        tolerance = 1e-2 if case in COARSE else 1e-6
    else:
        tolerance = 1e-6 if case == "mixed_precision" else 1e-12
    assert not mismatches(measured(case, ADJOINTS[name]), direct(case), tolerance)


@pytest.mark.parametrize("name", RECOMPUTING)
def test_an_unused_parameter_may_change_before_backward(name: str) -> None:
    """As an optimiser's step on another part of the model does; `Direct` does not mind."""
    net, spare = nn.Linear(2, 2).double(), nn.Linear(2, 2).double()
    module = nn.ModuleDict({"net": net, "spare": spare})
    ys = solve(lambda t, y: module["net"](y), torch.ones(1, 2).double(), RECOMPUTING[name])
    with torch.no_grad():
        spare.weight.add_(1.0)
    ys.sum().backward()
    assert net.weight.grad is not None


@pytest.mark.parametrize("name", RECOMPUTING)
def test_an_unused_parameter_gets_no_gradient(name: str) -> None:
    """Zeros would let weight decay and momentum move it."""
    net, spare = nn.Linear(2, 2).double(), nn.Linear(2, 2).double()
    module = nn.ModuleDict({"net": net, "spare": spare})
    field = lambda t, y: module["net"](y)  # noqa: E731
    solve(field, torch.ones(1, 2).double(), RECOMPUTING[name]).sum().backward()
    assert spare.weight.grad is None
