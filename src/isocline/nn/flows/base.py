"""Base distributions of flows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from ...errors import InputError, InputTypeError

__all__ = ["Base", "StandardNormal", "base_of"]

Base = Distribution | Callable[[], Distribution]
"""A distribution, or what makes one when called: a module with parameters, say, to be trained."""


class StandardNormal(nn.Module):
    """Independent normals of mean 0 that move and change dtype with the module they belong to.

    Args:
        shape: of one sample.
        scale: standard deviation.
    """

    location: Tensor
    scale: Tensor

    def __init__(self, shape: Size, scale: float = 1.0) -> None:
        super().__init__()
        if not scale > 0:
            raise InputError("scale", str(scale), "a positive number")
        self.register_buffer("location", torch.zeros(shape), persistent=False)
        self.register_buffer("scale", torch.full(shape, scale), persistent=False)

    def forward(self) -> Distribution:
        """The distribution."""
        # The arguments are our own; checking them costs more than drawing from them.
        normal = Normal(self.location, self.scale, validate_args=False)
        return Independent(normal, self.location.ndim, validate_args=False)


def base_of(source: Base, shape: Size) -> Distribution:
    """The distribution that `source` is or makes, after checking that it is over `shape`.

    Raises:
        InputError: if it is no distribution, or over other samples.
    """
    base: object = source
    if not isinstance(source, Distribution) and callable(source):
        base = source()
    if not isinstance(base, Distribution):
        raise InputTypeError("base", type(base).__name__, "a torch Distribution")
    if base.event_shape != shape or base.batch_shape:
        hint = "Wrap it in `torch.distributions.Independent(base, ndim)`." if shape else ""
        raise InputError(
            "base",
            f"event shape {tuple(base.event_shape)}, batch shape {tuple(base.batch_shape)}",
            f"event shape {tuple(shape)} and no batch shape, as the flow's",
            hint,
        )
    return base
