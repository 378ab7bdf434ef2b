"""What a model of time series says about observations at any times."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError, InputTypeError

__all__ = ["Prediction", "times_of_all"]


@dataclass(frozen=True)
class Prediction:
    """Mean and standard deviation of the observations at some times.

    Attributes:
        times: ``(batch, times)``.
        mean: ``(batch, times, features)``.
        std: Of an observation, so with its noise, shaped as the mean.
    """

    times: Tensor
    mean: Tensor
    std: Tensor

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the central interval of a Gaussian with this mean and deviation.

        Args:
            level: Probability that the interval holds.

        Raises:
            InputError: If the level is not between 0 and 1.
        """
        if not 0.0 < level < 1.0:
            raise InputError("level", str(level), "a probability between 0 and 1")
        half = math.sqrt(2.0) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))
        return self.mean - half * self.std, self.mean + half * self.std


def times_of_all(times: Tensor, batch: int) -> Tensor:
    """Times that all series share, or each its own, as ``(batch, times)``.

    Raises:
        InputError: If they are of another shape, or not finite.
        InputTypeError: If they are no tensor.
    """
    if not isinstance(times, Tensor):
        raise InputTypeError("times", type(times).__name__, "a tensor")
    if not bool(times.isfinite().all()):
        raise InputError("times", "times that are not finite", "finite times")
    times = times if times.is_floating_point() else times.to(torch.get_default_dtype())
    if times.ndim == 1:
        return times.expand(batch, -1)
    if times.ndim != 2 or times.shape[0] != batch:
        raise InputError("times", f"shape {tuple(times.shape)}", f"(times,) or ({batch}, times)")
    return times
