"""GRU-D: a gated recurrent unit whose inputs and hidden state decay while nothing is observed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import InputError
from .recurrence import Memory, Recurrence

__all__ = ["GRUD"]


class GRUD(Recurrence):
    """GRU-D (Che, Purushotham, Cho, Sontag, Liu 2018, equations 10 to 18).

    A feature that was not observed is taken to be its last value, which decays towards the mean;
    the hidden state decays by a learnt function of how long each feature was not observed.

    The unit itself is torch's, which applies the reset gate after the product with the hidden
    state instead of before it.

    Args:
        features: Features of a row, at least 1.
        hidden: Size of the hidden state.
        mean: What the features decay towards, ``(features,)``; 0, the mean of standardised data,
            where it is not given.

    Raises:
        InputError: If a size is not positive, or the mean is of another shape.
    """

    def __init__(self, features: int, hidden: int = 64, *, mean: Tensor | None = None) -> None:
        super().__init__()
        for name, value in (("features", features), ("hidden", hidden)):
            if value < 1:
                raise InputError(name, str(value), "at least 1")
        if mean is None:
            mean = torch.zeros(features)
        if mean.shape != (features,):
            raise InputError("mean", f"shape {tuple(mean.shape)}", f"({features},)")
        self.features = features
        self.hidden = hidden
        self.mean: Tensor
        self.register_buffer("mean", mean.to(torch.get_default_dtype()))
        # Rates and offsets. At 0 the ramp has no slope, and no rate would ever learn.
        self.input_decay = nn.Parameter(torch.tensor([[0.1], [0.0]]).repeat(1, features))
        self.hidden_decay = nn.Linear(features, hidden)
        self.cell = nn.GRUCell(2 * features, hidden)

    def start(self, size: int, like: Tensor) -> Memory:
        """Hidden state at the last row, last values, and the times since they were observed."""
        return (
            like.new_zeros(size, self.hidden),
            self.mean.to(like).expand(size, -1),
            like.new_zeros(size, self.features),
        )

    def advance(self, memory: Memory, gap: Tensor) -> Memory:
        """Only the times grow: what decays is computed when it is asked for."""
        hidden, last, since = memory
        return hidden, last, since + gap.unsqueeze(-1)

    def hidden_state(self, memory: Memory) -> Tensor:
        """The hidden state at the last row, decayed since."""
        hidden, _, since = memory
        decay: Tensor = self.hidden_decay(since).relu().neg().exp()
        return hidden * decay

    def observe(self, memory: Memory, values: Tensor, mask: Tensor) -> Memory:
        """A step of the GRU on observed values, and on decayed ones in place of the others."""
        _, last, since = memory
        rate, offset = self.input_decay
        share = (rate * since + offset).relu().neg().exp()
        imputed = values.where(mask, torch.lerp(self.mean.to(last).expand_as(last), last, share))
        inputs = torch.cat([imputed, mask.to(values.dtype)], -1)
        hidden = self.cell(inputs, self.hidden_state(memory))
        return hidden, values.where(mask, last), since.masked_fill(mask, 0.0)
