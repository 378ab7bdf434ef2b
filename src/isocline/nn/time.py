"""Times in fields: one for all samples, or one for each."""

from __future__ import annotations

from torch import Tensor

__all__ = ["time_like"]


def time_like(t: Tensor, y: Tensor) -> Tensor:
    """`t` so that it broadcasts against `y`, in its dtype, whichever way the batch steps.

    Under joint stepping a field is given a 0-d time, under per-sample stepping one of shape
    ``(batch,)``, which against a state of shape ``(batch, features)`` would be taken for features:

        >>> import torch
        >>> y = torch.zeros(4, 3)
        >>> time_like(torch.tensor(0.5), y).shape, time_like(torch.zeros(4), y).shape
        (torch.Size([]), torch.Size([4, 1]))

    Args:
        t: ``()`` or ``(batch,)``.
        y: ``(batch, ...)``.

    Returns:
        ``()``, or ``(batch, 1, ...)`` with as many axes as `y`.
    """
    t = t.to(y.real.dtype)
    return t.reshape(-1, *[1] * (y.ndim - 1)) if t.ndim else t
