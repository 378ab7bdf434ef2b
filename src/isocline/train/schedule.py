"""Learning rates over a run, as factors of the first."""

from __future__ import annotations

import math
from typing import Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler

__all__ = ["learning_rate_factor", "scheduled"]

ScheduleName = Literal["steps", "cosine", "constant"]

# The authors divide by ten after 60, 100 and 140 of 160 epochs.
MILESTONES = (60 / 160, 100 / 160, 140 / 160)
WARM_UP = 0.05


def learning_rate_factor(step: int, total: int, schedule: ScheduleName) -> float:
    """Factor of the learning rate at iteration `step` of `total`.

    ``steps``: 1, then a tenth more gone at each of three milestones (Chen et al.'s public example).
    ``cosine``: linear warm-up over the first 5 %, then half a cosine to zero (Loshchilov and Hutter
    2017, eq. 5). ``constant``: the warm-up, then 1.
    """
    if schedule == "steps":
        return float(0.1 ** sum(step >= mark * total for mark in MILESTONES))
    warm = max(1, round(WARM_UP * total))
    if step < warm:
        return (step + 1) / warm
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))


def scheduled(
    optimizer: torch.optim.Optimizer, total: int, schedule: ScheduleName
) -> OptimizerLRScheduler:
    """What Lightning wants of an optimiser whose rate follows a schedule over `total` steps."""

    def factor(step: int) -> float:
        return learning_rate_factor(step, total, schedule)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
