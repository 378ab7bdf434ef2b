"""The fields of the benchmark of gradients, in torch and in jax, with the same weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

# One thread for XLA: to be said before jax is imported.
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import jax
import jax.numpy as jnp
import torch
from torch import Tensor, nn

from isocline.nn import ConvField

__all__ = ["CASES", "Case", "Counted"]

JaxField = Callable[[Any, Any, Any], Any]
"""(t, y, weights) -> dy/dt."""


class Counted(nn.Module):
    """A field that counts its evaluations on the class, so that a call costs no more.

    Args:
        net: `(t, y) -> dy/dt`, or a layer of y alone.
        timed: whether the net sees the time.
    """

    evaluations = 0

    def __init__(self, net: nn.Module, *, timed: bool) -> None:
        super().__init__()
        self.net, self.timed = net, timed

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        Counted.evaluations += 1
        return self.net(t, y) if self.timed else self.net(y)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Case:
    """A field and how it is solved.

    Attributes:
        name: for the page.
        build: makes the field and the state to start from, seeded.
        rewrite: the field in jax, and its weights, from the module.
        end: of the solve, which starts at 0.
        tolerances: rtol, of which atol is a tenth.
        exact: method and tolerance of the reference, in float64; a low order suits a rough field.
        share: of the rounds.
    """

    name: str
    build: Callable[[], tuple[Counted, Tensor]]
    rewrite: Callable[[Counted], tuple[JaxField, Any]]
    end: float
    tolerances: tuple[float, ...]
    exact: tuple[str, float] = ("dop853", 1e-11)
    share: float = 1.0


def perceptron(sizes: tuple[int, ...], batch: int, gain: float) -> Callable[[], Any]:
    """A tanh network, with weights livelier than torch's default, as after some training."""

    def build() -> tuple[Counted, Tensor]:
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.Tanh()]
        net = nn.Sequential(*layers[:-1])
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(gain if parameter.ndim > 1 else 1.0)
        return Counted(net, timed=False), torch.randn(batch, sizes[0])

    return build


def convolutional() -> tuple[Counted, Tensor]:
    """The field of the ODE-Net, 64 channels of 7x7."""
    torch.manual_seed(0)
    return Counted(ConvField(64), timed=True), torch.randn(32, 64, 7, 7)


def to_jax(tensor: Tensor) -> Any:
    return jnp.asarray(tensor.detach().numpy())


def jax_perceptron(field: Counted) -> tuple[JaxField, Any]:
    """Weights are stored [in, out], which XLA's products are quickest with."""
    linears = [layer for layer in field.net.modules() if isinstance(layer, nn.Linear)]
    weights = [(to_jax(layer.weight.T.contiguous()), to_jax(layer.bias)) for layer in linears]

    def rate(t: Any, y: Any, weights: Any) -> Any:
        for place, (weight, bias) in enumerate(weights):
            y = (jnp.tanh(y) if place else y) @ weight + bias
        return y

    return rate, weights


def jax_convolutional(field: Counted) -> tuple[JaxField, Any]:
    net = field.net
    weights = {name: to_jax(value) for name, value in net.named_parameters()}

    def norm(x: Any, w: Any, name: str) -> Any:
        groups = x.reshape(x.shape[0], 32, -1)
        mean, var = groups.mean(-1, keepdims=True), groups.var(-1, keepdims=True)
        x = ((groups - mean) / jnp.sqrt(var + 1e-5)).reshape(x.shape)
        return x * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def conv(x: Any, kernel: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NCHW", "OIHW", "NCHW")
        )

    def concat(t: Any, x: Any, w: Any, name: str) -> Any:
        ones = jnp.ones((1, 1, *x.shape[2:]), x.dtype)
        of_time = conv(ones, w[f"{name}.weight_time"])
        return conv(x, w[f"{name}.weight"]) + w[f"{name}.bias"][:, None, None] + t * of_time

    def rate(t: Any, y: Any, w: Any) -> Any:
        z = concat(t, jax.nn.relu(norm(y, w, "norm1")), w, "conv1")
        z = concat(t, jax.nn.relu(norm(z, w, "norm2")), w, "conv2")
        return norm(z, w, "norm3")

    return rate, weights


CASES = {
    "mlp1": Case(
        "MLP 2-64-64-2, batch 1", perceptron((2, 64, 64, 2), 1, 2.0), jax_perceptron, 10.0,
        (1e-3, 1e-4, 1e-5, 1e-6),
    ),
    "mlp128": Case(
        "MLP 2-64-64-2, batch 128", perceptron((2, 64, 64, 2), 128, 2.0), jax_perceptron, 10.0,
        (1e-3, 1e-4, 1e-5, 1e-6),
    ),
    "wide": Case(
        "MLP 64-256-256-64, batch 512", perceptron((64, 256, 256, 64), 512, 2.5), jax_perceptron,
        4.0, (1e-3, 1e-4, 1e-5), share=1 / 3,
    ),
    "conv": Case(
        "convolutional field of the ODE-Net, 64x7x7, batch 32", convolutional, jax_convolutional,
        3.0, (1e-3, 1e-4, 1e-5), exact=("tsit5", 1e-7), share=1 / 4,
    ),
}  # fmt: skip
