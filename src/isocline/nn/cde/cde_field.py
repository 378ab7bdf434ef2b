"""The field of a neural CDE: a matrix for each state."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from ...errors import InputError
from ..fields import Activation, make_activation

__all__ = ["CDEField"]


class CDEField(nn.Module):
    """A multilayer perceptron whose answer is a matrix, bounded by a final tanh.

    The bound keeps the state from running away over long paths (Kidger et al. 2020, appendix D).

    Args:
        hidden: Size of the state.
        channels: Channels of the path.
        width: Width of the inner layers.
        depth: Number of inner layers, at least 1.
        activation: Name of their nonlinearity.

    Shape:
        z: ``(batch, hidden)``; answer: ``(batch, hidden, channels)``.

    Raises:
        InputError: If a size is not positive or the activation is unknown.
    """

    def __init__(
        self,
        hidden: int,
        channels: int,
        width: int = 64,
        depth: int = 1,
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        sizes = {"hidden": hidden, "channels": channels, "width": width, "depth": depth}
        for name, size in sizes.items():
            if size < 1:
                raise InputError(name, str(size), "at least 1")
        self.channels = channels
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([hidden] + [width] * depth):
            layers += [nn.Linear(inputs, outputs), make_activation(activation)]
        layers += [nn.Linear(width, hidden * channels), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """The matrix that turns the path's derivative into the state's."""
        flat: Tensor = self.layers(z)
        return flat.view(*z.shape, self.channels)
