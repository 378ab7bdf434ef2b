"""The training loop that the examples share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from rich.progress import track
from torch import Tensor


def fit(
    model: torch.nn.Module,
    loss: Callable[[], Tensor],
    iterations: int,
    rate: float,
    title: str,
    clip: float = 5.0,
) -> Iterator[None]:
    """Minimise `loss` by Adam, with half a cosine from `rate` to zero; yields after each step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for _ in track(range(iterations), title, update_period=1.0):
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        schedule.step()
        yield
