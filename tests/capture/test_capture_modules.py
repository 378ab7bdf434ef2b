"""Modules as fields, made and changed in the ways that people make and change them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import isocline as ic

ADJOINTS: dict[str, Any] = {
    "checkpointed": ic.Checkpointed(),
    "no_graphs": ic.Checkpointed(graph_budget=0),
    "slots2": ic.Checkpointed(slots=2),
    "backsolve": ic.Backsolve(rtol=1e-9, atol=1e-9),
}
STEPS: dict[str, Any] = {"solver": "dop853", "rtol": 1e-8, "atol": 1e-8}
ROWS = [[1.0, 0.5], [0.2, -0.7], [-0.4, 0.1]]


def network(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))


class Field(nn.Module):
    """A network of the state; what to make of its output is for the classes below."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = network() if net is None else net

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.answer(self.net(y), y).tanh() * (1.0 - 0.1 * t)

    def answer(self, out: Tensor, y: Tensor) -> Tensor:
        return out


class Transposed(Field):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return super().forward(t, y).t().contiguous().t()


class Expanded(Field):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return super().forward(t, y)[:1].expand_as(y)


class SlicedView(Field):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.cat([y, super().forward(t, y)], -1)[:, 2:]


class StateItself(Field):
    """Its answer is the very tensor that it was given."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y


class OfTimeAlone(Field):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(torch.stack([t, 1 - t]).to(y)).expand_as(y)


class InPlace(Field):
    def answer(self, out: Tensor, y: Tensor) -> Tensor:
        return y.clone().add_(out).mul_(0.5)


class Energy(Field):
    """Goes down the slope of a learned energy: autograd inside, with a graph of its own."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            energy = self.net(y).square().sum()
            (slope,) = torch.autograd.grad(energy, y, create_graph=True)
        return -slope


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight @ weight.t()


def parametrised() -> nn.Module:
    net = network(2)
    parametrize.register_parametrization(net[0], "weight", Symmetric())
    return Field(net)


class Adapted(nn.Module):
    """LoRA: stands in the place of a layer, which it holds and does not train."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(1, layer.in_features))
        self.up = nn.Parameter(torch.randn(layer.out_features, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x @ (self.up @ self.down).t()


def adapted() -> nn.Module:
    field = Field()
    for name in ("0", "2"):
        setattr(field.net, name, Adapted(field.net.get_submodule(name)))
    return field


def hooked_before() -> nn.Module:
    field = Field()
    field.scale = nn.Parameter(torch.tensor(0.3))
    field.net.register_forward_pre_hook(lambda _, given: (given[0] * field.scale,))
    return field


def hooked_after() -> nn.Module:
    """The hook's layer is no part of the module, whose own parameters do not show it."""
    field, layer = Field(), nn.Linear(2, 2).double()
    field.net.register_forward_hook(lambda _, given, out: layer(out))
    field.outside = layer.named_parameters
    return field


def normalised() -> nn.Module:
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4, eps=0.1), nn.Tanh(), nn.Linear(4, 2))
    return Field(net)


def spectral() -> nn.Module:
    """In training mode, its power iteration long converged."""
    layer = parametrizations.spectral_norm(nn.Linear(2, 2), n_power_iterations=15)
    return Field(nn.Sequential(layer, nn.Tanh()))


def scripted() -> nn.Module:
    return torch.jit.script(Field())


def compiled() -> nn.Module:
    return torch.compile(Field(), backend="aot_eager")


def compiled_inside() -> nn.Module:
    return Field(torch.compile(network(), backend="aot_eager"))


MODULES: dict[str, Callable[[], nn.Module]] = {
    make.__name__: make
    for make in (
        Field, Transposed, Expanded, SlicedView, StateItself, OfTimeAlone, InPlace, Energy,
        parametrised, adapted, hooked_before, hooked_after, normalised, spectral, scripted,
    )
}  # fmt: skip

LEADING = {"rows": (3, 2), "axes": (2, 2, 3, 2), "one": (1, 2)}


def gradients(
    make: Callable[[], nn.Module], adjoint: Any, shape: tuple[int, ...] = (3, 2)
) -> dict[str, Tensor | None]:
    torch.manual_seed(0)
    field = make().double()
    rows = torch.tensor(ROWS, dtype=torch.float64)
    y0 = rows.repeat(4, 1)[: torch.Size(shape).numel() // 2].view(shape).requires_grad_()
    ys = ic.solve(field, y0, 0.0, 1.0, adjoint=adjoint, **STEPS).ys
    (ys.square() * torch.arange(1.0, 3.0)).sum().backward()
    leaves = {"y0": y0, **dict(field.named_parameters()), **dict(getattr(field, "outside", dict)())}
    return {name: leaf.grad for name, leaf in leaves.items()}


def check(name: str, found: dict[Any, Tensor | None], want: dict[Any, Tensor | None]) -> None:
    rtol, atol = (1e-5, 1e-7) if name == "backsolve" else (1e-9, 1e-12)
    torch.testing.assert_close(found, want, rtol=rtol, atol=atol)


@pytest.mark.parametrize("make", MODULES)
def test_modules_of_every_make(make: str) -> None:
    want = gradients(MODULES[make], ic.Direct())
    for name, adjoint in ADJOINTS.items():
        check(name, gradients(MODULES[make], adjoint), want)


# Dynamo looks at `.grad` of what it is given, also where that is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("name", ["checkpointed", "backsolve"])
@pytest.mark.parametrize("make", [compiled, pytest.param(compiled_inside, marks=pytest.mark.slow)])
def test_a_field_that_is_compiled(make: Callable[[], nn.Module], name: str) -> None:
    """Once it has been trained under `Direct`, its graph forbids to be retained."""

    def used() -> nn.Module:
        field = make().double()
        y = torch.tensor(ROWS, dtype=torch.float64, requires_grad=True)
        ic.solve(field, y, 0.0, 1.0, adjoint=ic.Direct(), **STEPS).ys.sum().backward()
        field.zero_grad()
        return field

    want = list(gradients(Field, ic.Direct()).values())
    found = list(gradients(used, ADJOINTS[name]).values())
    check(name, dict(enumerate(found)), dict(enumerate(want)))


@pytest.mark.parametrize("shape", LEADING.values(), ids=LEADING)
@pytest.mark.parametrize("name", ADJOINTS)
def test_states_with_leading_axes(name: str, shape: tuple[int, ...]) -> None:
    check(name, gradients(Field, ADJOINTS[name], shape), gradients(Field, ic.Direct(), shape))


@pytest.mark.parametrize("name", ["direct", *ADJOINTS])
def test_a_frozen_weight_gets_none_and_not_zeros(name: str) -> None:
    """Zeros would let momentum and weight decay move it."""
    found = gradients(adapted, {"direct": ic.Direct(), **ADJOINTS}[name])
    for layer in ("0", "2"):
        assert found[f"net.{layer}.layer.weight"] is None
        assert found[f"net.{layer}.layer.bias"] is None
        assert float(found[f"net.{layer}.down"].abs().max()) > 0
        assert float(found[f"net.{layer}.up"].abs().max()) > 0
