"""The workloads of the benchmark of compiled speed, in torch and in jax, with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradient_fields as fields
import jax
import jax.numpy as jnp
import torch
from torch import Tensor, nn

__all__ = ["CASES", "Workload"]


@dataclass(frozen=True)
class Workload:
    """What is solved.

    Attributes:
        name: for the page.
        build: makes the field `(t, y) -> dy/dt` and the state to start from, seeded.
        rewrite: the field in jax, `(t, y, weights) -> dy/dt`, and its weights, from the module.
        times: at which the state is wanted, from the start to the end.
        rtol, atol: tolerances.
        what: "forward", "training" or both.
        rounds: of the interleaved run.
    """

    name: str
    build: Callable[[], tuple[nn.Module, Tensor]]
    rewrite: Callable[[Any], tuple[Any, Any]]
    times: tuple[float, ...]
    rtol: float
    atol: float
    what: tuple[str, ...]
    rounds: int = 15


def times(end: float, count: int = 2) -> tuple[float, ...]:
    return tuple(end * i / (count - 1) for i in range(count))


class Plain(nn.Module):
    """A network of the state alone, as a field."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)  # type: ignore[no-any-return]


def perceptron(key: str) -> tuple[Any, Any]:
    case = fields.CASES[key]

    def build() -> tuple[nn.Module, Tensor]:
        counted, y0 = case.build()
        return Plain(counted.net), y0

    return build, case.rewrite


class Cubed(nn.Module):
    """The field of the spiral demo: 2-50-2 on the cube of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y**3)  # type: ignore[no-any-return]


def spiral() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    field = Cubed()
    with torch.no_grad():
        for layer in (field.net[0], field.net[2]):
            layer.weight.normal_(0.0, 0.3)
            layer.bias.zero_()
    return field, torch.randn(20, 2)


def spiral_in_jax(field: Any) -> tuple[Any, Any]:
    rate, weights = fields.jax_perceptron(field)
    return lambda t, y, w: rate(t, y**3, w), weights


class LotkaVolterra(nn.Module):
    """Prey and predators with four parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.tensor([1.5, 1.0, 3.0, 1.0]))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        a, b, c, d = self.rates.unbind()
        prey, predators = y[..., 0], y[..., 1]
        both = prey * predators
        return torch.stack([a * prey - b * both, d * both - c * predators], -1)


def lotka_in_jax(field: Any) -> tuple[Any, Any]:
    def rate(t: Any, y: Any, w: Any) -> Any:
        both = y[..., 0] * y[..., 1]
        growth = [w[0] * y[..., 0] - w[1] * both, w[3] * both - w[2] * y[..., 1]]
        return jnp.stack(growth, -1)

    return rate, fields.to_jax(field.rates)


class VanDerPol(nn.Module):
    """Oscillators, each with its own stiffness."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.register_buffer("mu", torch.linspace(2.0, 10.0, batch))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        x, v = y[:, 0], y[:, 1]
        return torch.stack([v, self.mu * (1 - x * x) * v - x], 1)


def van_der_pol() -> tuple[nn.Module, Tensor]:
    return VanDerPol(256), torch.tensor([[2.0, 0.0]]).repeat(256, 1)


def van_der_pol_in_jax(field: Any) -> tuple[Any, Any]:
    def rate(t: Any, y: Any, mu: Any) -> Any:
        x, v = y[:, 0], y[:, 1]
        return jnp.stack([v, mu * (1 - x * x) * v - x], 1)

    return rate, fields.to_jax(field.mu)


class Flow(nn.Module):
    """State and log-density of a continuous normalizing flow, with the exact trace.

    The state has three columns, so that all libraries can be given it: two of the sample, and the
    integral of the trace.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        recorded = torch.is_grad_enabled()
        with torch.enable_grad():
            z = y[:, :2] if y.requires_grad else y[:, :2].detach().requires_grad_()
            v = self.net(z)
            columns = [
                torch.autograd.grad(v[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(2)
            ]
            found = torch.cat([v, -(columns[0] + columns[1])[:, None]], 1)
        return found if recorded else found.detach()


def flow() -> tuple[nn.Module, Tensor]:
    counted, y0 = fields.perceptron((2, 64, 64, 2), 512, 1.5)()
    return Flow(counted.net), torch.cat([y0, torch.zeros(512, 1)], 1)


def flow_in_jax(field: Any) -> tuple[Any, Any]:
    rate, weights = fields.jax_perceptron(field)

    def of_one(z: Any, w: Any) -> Any:
        jacobian = jax.jacrev(lambda x: rate(0.0, x, w))(z)
        return jnp.concatenate([rate(0.0, z, w), -jnp.trace(jacobian)[None]])

    return lambda t, y, w: jax.vmap(lambda row: of_one(row[:2], w))(y), weights


def convolutional() -> tuple[nn.Module, Tensor]:
    counted, y0 = fields.convolutional()
    return counted.net, y0


class _Net:
    """A module as the rewriting of the convolutional field wants it."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net


BOTH = ("forward", "training")

CASES = {
    "mlp1": Workload(
        "MLP 2-64-64-2, batch 1", *perceptron("mlp1"), times(10.0), 1e-5, 1e-6, BOTH, 40
    ),
    "mlp128": Workload(
        "MLP 2-64-64-2, batch 128", *perceptron("mlp128"), times(10.0), 1e-5, 1e-6, BOTH, 30
    ),
    "spiral": Workload(
        "spiral demo, 10 output times", spiral, spiral_in_jax, times(2.0, 10), 1e-7, 1e-9,
        ("training",), 25,
    ),
    "lotka": Workload(
        "Lotka-Volterra", lambda: (LotkaVolterra(), torch.ones(1, 2)), lotka_in_jax, times(20.0),
        1e-5, 1e-6, BOTH, 15,
    ),
    "vanderpol": Workload(
        "van der Pol, batch 256", van_der_pol, van_der_pol_in_jax,
        times(10.0), 1e-5, 1e-6, ("forward",), 9,
    ),
    "cnf": Workload(
        "CNF, exact trace, batch 512", flow, flow_in_jax, times(1.0), 1e-5, 1e-6, ("training",), 9
    ),
    "wide": Workload(
        "MLP 64-256-256-64, batch 512", *perceptron("wide"), times(2.0), 1e-5, 1e-6, BOTH, 5
    ),
    "conv": Workload(
        "convolutional field of the ODE-Net", convolutional,
        lambda net: fields.jax_convolutional(_Net(net)), times(1.0), 1e-3, 1e-3, BOTH, 4,  # type: ignore[arg-type]
    ),
}  # fmt: skip
