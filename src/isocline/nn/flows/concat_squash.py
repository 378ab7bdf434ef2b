"""FFJORD's network: layers whose output time gates and shifts."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from ...errors import InputError
from ..fields import Activation, make_activation

__all__ = ["ConcatSquash", "ConcatSquashField"]


class ConcatSquash(nn.Module):
    """A linear layer, (W x + b) * sigmoid(G c + g) + V c, with c = (t, context).

    Grathwohl et al. 2019 ("FFJORD", appendix B.1); with a context as in Yang et al. 2019
    ("PointFlow").

    Args:
        inputs: Features of `x`.
        outputs: Features of the answer.
        conditions: Features of `c`: 1 for the time, and those of the context.

    Shape:
        x: ``(batch, inputs)``; c: ``(conditions,)`` or ``(batch, conditions)``.
    """

    def __init__(self, inputs: int, outputs: int, conditions: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.gate = nn.Linear(conditions, outputs)
        self.shift = nn.Linear(conditions, outputs, bias=False)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Compute the layer."""
        return torch.addcmul(self.shift(c), self.linear(x), torch.sigmoid(self.gate(c)))


class ConcatSquashField(nn.Module):
    """A multilayer perceptron of `ConcatSquash` layers as a field, with or without a context.

    Args:
        features: Dimension of z.
        hidden: Width of the hidden layers.
        depth: Number of hidden layers, at least 1.
        activation: Name of the nonlinearity; smooth ones let the solver take longer steps.
        context: Features of the context, 0 for none.

    Shape:
        t: ``()`` or ``(batch,)``; z and the answer: ``(batch, features)``; context: ``(batch,
        context)``.

    Raises:
        InputError: If a size is wrong, the activation unknown, or the context missing.
    """

    def __init__(
        self,
        features: int,
        hidden: int = 64,
        depth: int = 2,
        activation: Activation = "tanh",
        context: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("features", features), ("hidden", hidden), ("depth", depth)):
            if value < 1:
                raise InputError(name, str(value), "at least 1")
        if context < 0:
            raise InputError("context", str(context), "at least 0")
        self.context = context
        sizes = [features] + [hidden] * depth + [features]
        self.layers = nn.ModuleList(ConcatSquash(a, b, 1 + context) for a, b in pairwise(sizes))
        self.activation = make_activation(activation)

    def forward(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Evaluate dz/dt."""
        c = self._conditions(t.unsqueeze(-1).to(z.dtype), context)
        *hidden, last = self.layers
        for layer in hidden:
            z = self.activation(layer(z, c))
        answer: Tensor = last(z, c)
        return answer

    def _conditions(self, t: Tensor, context: Tensor | None) -> Tensor:
        given = 0 if context is None else context.shape[-1]
        if given != self.context:
            raise InputError(
                "context", f"{given} features", f"{self.context}, as the field was made for"
            )
        if context is None:
            return t
        return torch.cat([t.expand(len(context), 1), context.to(t.dtype)], dim=-1)
