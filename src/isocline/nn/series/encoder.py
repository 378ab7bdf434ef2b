"""From observations to a distribution of the latent state."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal

from ...errors import InputError
from ...irregular import IrregularBatch
from ..solving import as_state
from .recurrence import Recurrence
from .rows import Rows

__all__ = ["Encoder", "RecurrentEncoder"]

# Below this a posterior is as good as a point, and its logarithm the loss's only concern.
_LEAST_STD = 1e-4


class Encoder(Protocol):
    """What `LatentODE` asks of an encoder."""

    @property
    def latent(self) -> int:
        """Size of the latent state."""

    def __call__(self, batch: IrregularBatch, t0: float) -> Normal:
        """The approximate posterior of the latent state at `t0`, of shape ``(batch, latent)``."""


class RecurrentEncoder(nn.Module):
    """A recurrence that runs backwards over the rows, and on to `t0`.

    With an `RNN` it is the recognition network of Chen et al. 2018, with an `ODERNN` that of
    Rubanova et al. 2019.

    Args:
        recurrence: What reads the rows.
        latent: Size of the latent state.
        width: Width of the layer between hidden state and posterior; ``None`` for no such layer.

    Raises:
        InputError: If a size is not positive.
    """

    def __init__(self, recurrence: Recurrence, latent: int, width: int | None = None) -> None:
        super().__init__()
        for name, value in (("latent", latent), ("width", width)):
            if value is not None and value < 1:
                raise InputError(name, str(value), "at least 1")
        self.recurrence = recurrence
        self.latent = latent
        if width is None:
            self.head: nn.Module = nn.Linear(recurrence.hidden, 2 * latent)
        else:
            self.head = nn.Sequential(
                nn.Linear(recurrence.hidden, width), nn.Tanh(), nn.Linear(width, 2 * latent)
            )

    def forward(self, batch: IrregularBatch, t0: float) -> Normal:
        """The approximate posterior of the latent state at `t0`, of shape ``(batch, latent)``."""
        _, hidden = self.recurrence.trace(Rows.backward(batch, t0))
        # The divergence of a posterior from the prior is too fine a number for half precision.
        output = as_state(self.head(hidden))
        mean, raw = output.chunk(2, -1)
        return Normal(mean, F.softplus(raw) + _LEAST_STD, validate_args=False)
