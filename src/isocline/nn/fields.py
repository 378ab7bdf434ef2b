"""Vector fields for neural ODEs: modules called as ``field(t, y)``."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError

__all__ = [
    "Activation",
    "ConcatConv2d",
    "ConvField",
    "MLPField",
    "SemilinearField",
    "group_norm",
    "make_activation",
]

Activation = Literal["elu", "relu", "silu", "softplus", "tanh"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def make_activation(name: Activation) -> nn.Module:
    """The nonlinearity called `name`.

    Raises:
        InputError: If there is none of that name.
    """
    if name not in _ACTIVATIONS:
        raise InputError("activation", repr(name), f"one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]()


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with ``min(32, channels)`` groups, as in the authors' public example.

    Raises:
        ValueError: If `channels` is above 32 and no multiple of it.
    """
    return nn.GroupNorm(min(32, channels), channels)


class ConcatConv2d(nn.Module):
    """3x3-style convolution that sees the time as one more input channel.

    It computes ``conv(cat([t, x]))``, with `t` spread over a whole channel, as the authors' example
    does (torchdiffeq, ``examples/odenet_mnist.py``). The convolution is linear, so the time's part
    is taken apart from the image's: the same number for every sample, hence computed once and
    added as a map of biases. That saves the copy that ``cat`` makes, and leaves the convolution a
    channel count that vector units like (64, not 65).

    Args:
        in_channels: Channels of `x`, not counting the time.
        out_channels: Channels of the answer.
        kernel_size: Side of the square kernel.
        stride: Stride in both directions.
        padding: Zeros around the image (and around the channel of the time).

    Shape:
        t: ``()`` or ``(batch,)``; x: ``(batch, in_channels, height, width)``;
        answer: ``(batch, out_channels, height', width')``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = padding
        size = (kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *size))
        self.weight_time = nn.Parameter(torch.empty(out_channels, 1, *size))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as `torch.nn.Conv2d` would for ``in_channels + 1`` channels."""
        fan_in = (self.weight.shape[1] + 1) * self.weight.shape[2] * self.weight.shape[3]
        bound = 1.0 / math.sqrt(fan_in)
        for parameter in (self.weight, self.weight_time, self.bias):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Convolve `x` together with a channel that holds `t`."""
        ones = x.new_ones(1, 1, *x.shape[2:])
        answer = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        of_time = F.conv2d(ones, self.weight_time, None, self.stride, self.padding)
        return answer + t.to(answer.dtype).view(-1, 1, 1, 1) * of_time

    def extra_repr(self) -> str:
        """Describe the sizes, as torch's own layers do."""
        out_channels, in_channels, kernel, _ = self.weight.shape
        return (
            f"{in_channels}, {out_channels}, kernel_size={kernel}, "
            f"stride={self.stride}, padding={self.padding}"
        )


class ConvField(nn.Module):
    """The paper's convolutional field, GN-ReLU-conv(t)-GN-ReLU-conv(t)-GN.

    Chen et al. 2018, section 3, in the form of the authors' public example.

    Args:
        channels: Channels of the state, at most 32 or a multiple of 32.

    Shape:
        t: ``()`` or ``(batch,)``; y and the answer: ``(batch, channels, height, width)``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = group_norm(channels)
        self.conv1 = ConcatConv2d(channels, channels, 3, padding=1)
        self.norm2 = group_norm(channels)
        self.conv2 = ConcatConv2d(channels, channels, 3, padding=1)
        self.norm3 = group_norm(channels)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate dy/dt at time `t` and state `y`."""
        z = self.conv1(t, F.relu(self.norm1(y)))
        z = self.conv2(t, F.relu(self.norm2(z)))
        answer: Tensor = self.norm3(z)
        return answer


class MLPField(nn.Module):
    """A multilayer perceptron as a field.

    Args:
        dim: Size of the state's last axis.
        hidden: Width of the hidden layers.
        depth: Number of hidden layers, at least 1.
        activation: Name of the nonlinearity. Smooth ones (``tanh``, ``softplus``, ``silu``) let an
            adaptive solver take longer steps than ``relu`` does.
        time: Whether the first layer sees the time too.

    Shape:
        t: ``()`` or ``(...)``, one for each state; y and the answer: ``(..., dim)``.

    Raises:
        InputError: If a size is not positive or the activation is unknown.
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 64,
        depth: int = 2,
        activation: Activation = "tanh",
        time: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("hidden", hidden), ("depth", depth)):
            if value < 1:
                raise InputError(name, str(value), "at least 1")
        self.time = time
        sizes = [dim + int(time)] + [hidden] * depth
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), make_activation(activation)]
        layers.append(nn.Linear(hidden, dim))
        self.layers = nn.Sequential(*layers)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate dy/dt at time `t` and state `y`."""
        if self.time:
            t = t.to(y.dtype).unsqueeze(-1)
            y = torch.cat([t.expand(*y.shape[:-1], 1), y], dim=-1)
        answer: Tensor = self.layers(y)
        return answer


class SemilinearField(nn.Module):
    """A linear field and a bounded nonlinear part: ``dy/dt = A y + W tanh(V y + b)``.

    Far from the data the linear part is what is left, and goes on as it did there: oscillations,
    growth and decay are carried on beyond the time in which they were observed, where a perceptron
    goes its own way. It starts as one: A turns pairs of components in a random basis, each at a
    frequency of its own within a half of `speed` around it, and W is 0.

    Args:
        dim: Size of the state's last axis.
        hidden: Width of the nonlinear part, 0 for none.
        speed: About the frequencies, in radians per unit of time, from which it learns.

    Shape:
        t: not used; y and the answer: ``(..., dim)``.

    Raises:
        InputError: If a size or the speed is not as described.
    """

    def __init__(self, dim: int, hidden: int = 20, *, speed: float = 1.0) -> None:
        super().__init__()
        if dim < 1:
            raise InputError("dim", str(dim), "at least 1")
        if hidden < 0:
            raise InputError("hidden", str(hidden), "0 or more")
        if not 0.0 <= speed < math.inf:
            raise InputError("speed", str(speed), "a finite number, 0 or more")
        self.linear = nn.Linear(dim, dim, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(_turning(dim, speed))
        self.bounded: nn.Sequential | None = None
        if hidden:
            last = nn.Linear(hidden, dim)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.bounded = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), last)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate dy/dt at state `y`."""
        del t
        slope: Tensor = self.linear(y)
        return slope if self.bounded is None else slope + self.bounded(y)


def _turning(dim: int, speed: float) -> Tensor:
    """Rotations in planes of a random orthonormal basis: skew-symmetric, ``(dim, dim)``."""
    basis, _ = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64))
    first, second = basis[:, : dim // 2], basis[:, dim // 2 : 2 * (dim // 2)]
    frequencies = speed * (0.5 + torch.rand(dim // 2, dtype=torch.float64))
    half: Tensor = (first * frequencies) @ second.T
    return half - half.T
