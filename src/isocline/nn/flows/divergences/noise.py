"""Random vectors whose components are uncorrelated and of variance one."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ....errors import InputError

__all__ = ["NoiseName", "check_noise", "draw"]

NoiseName = Literal["rademacher", "gaussian"]


def check_noise(name: str) -> None:
    """Raise `InputError` unless `name` is one that `draw` knows."""
    if name not in get_args(NoiseName):
        raise InputError("noise_name", repr(name), " or ".join(map(repr, get_args(NoiseName))))


def draw(name: NoiseName, count: int, like: Tensor) -> Tensor:
    """`count` vectors for states like `like`: shape (count, *like.shape)."""
    shape = (count, *like.shape)
    if name == "gaussian":
        return torch.randn(shape, dtype=like.dtype, device=like.device)
    # Signs: of all such vectors these give the estimate of a trace the least variance.
    bits = torch.randint(0, 2, shape, dtype=like.dtype, device=like.device)
    return bits.mul_(2).sub_(1)
