"""Zero gradients for parameters that a solve did not use, as torchdiffeq's adjoint gives them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..state import State

__all__ = ["reaching"]


def reaching(states: State, parameters: tuple[Tensor, ...]) -> State:
    """The same states, whose backward pass adds zero to the gradient of each of the parameters.

    After it no parameter's `.grad` is None, which training code may rely on.
    """
    single = isinstance(states, Tensor)
    leaves = (states,) if single else tuple(states)
    if not parameters or not torch.is_grad_enabled():
        return states
    found: tuple[Tensor, ...] = _Reaching.apply(  # type: ignore[no-untyped-call]
        len(leaves), *leaves, *parameters
    )
    return found[0] if single else found


class _Reaching(torch.autograd.Function):
    """Hands states on; zero for what follows them."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        # Of the parameters nothing is needed but their form.
        ctx.forms = [(p.shape, p.dtype, p.device) for p in tensors[count:]]
        return tuple(tensor.view_as(tensor) for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        zeros = [
            torch.zeros((), dtype=dtype, device=device).expand(shape)
            for shape, dtype, device in ctx.forms
        ]
        return (None, *gradients, *zeros)
