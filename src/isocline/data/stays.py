"""Simulated stays in intensive care: clinical series that need no download.

Not a model of any illness. They have what makes clinical series hard: each variable is measured at
times of its own, most of them rarely, sicker patients more often, and all of them through noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import InputError
from .seeds import fold_seeds
from .series import SeriesSet

__all__ = ["simulated_stays"]

# A day's length and the observed window, in hours, and the grid of the times of measurement.
DAY = 24.0
WINDOW = 48.0
STEP = 0.1

# name: level at severity 0, change for a unit of it, amplitude over the day, noise, measurements an
# hour. The last two cannot be negative: for them change and noise are of the logarithm.
_VARIABLES = {
    "heart rate": (82.0, 10.0, 4.0, 3.0, 0.5),
    "mean arterial pressure": (84.0, -7.0, 2.5, 3.0, 0.45),
    "temperature": (36.9, 0.4, 0.25, 0.1, 0.2),
    "respiratory rate": (18.0, 2.5, 0.8, 1.0, 0.3),
    "lactate": (1.5, 0.45, 0.0, 0.1, 0.1),
    "creatinine": (0.95, 0.3, 0.0, 0.06, 0.07),
}
_POSITIVE = ("lactate", "creatinine")
# How far patients differ at the same severity, in units of its effect.
_OWN = 0.4
# What severity does to how often something is measured.
_ATTENTION = 0.35


def simulated_stays(number: int, seed: int = 0) -> SeriesSet:
    """Stays of 48 hours of simulated patients, with whether they died.

    A patient's severity goes from where it was at admission towards a level of its own, swinging on
    the way, with damping; it moves six variables, and the odds of death follow from where it ends.

    Args:
        number: How many stays.
        seed: All that is random follows from it.

    Returns:
        Times in hours, values in the usual units (1/min, mmHg, degrees Celsius, mmol/l, mg/dl),
        label 1 for a death, about one in five.

    Raises:
        InputError: If the number is not positive.
    """
    if number < 1:
        raise InputError("number", str(number), "at least 1")
    generator = torch.Generator().manual_seed(fold_seeds(seed, 48))
    grid = torch.arange(0.0, WINDOW + STEP / 2, STEP, dtype=torch.float64)
    severity = _severity(number, grid, generator)
    hour = 2.0 * math.pi * grid / DAY
    phase = 2.0 * math.pi * torch.rand(number, 1, generator=generator, dtype=torch.float64)
    values, seen = [], []
    for name, (level, slope, daily, noise, rate) in _VARIABLES.items():
        own = _OWN * slope * _normal(number, 1, generator=generator)
        change = slope * severity + own + daily * (hour + phase).sin()
        change = change + noise * _normal(*severity.shape, generator=generator)
        values.append(level * change.exp() if name in _POSITIVE else level + change)
        chance = STEP * rate * (_ATTENTION * severity).exp()
        seen.append(torch.rand(severity.shape, generator=generator, dtype=torch.float64) < chance)
    measured, mask = torch.stack(values, -1).float(), torch.stack(seen, -1)
    rows = mask.any(-1)
    odds = torch.sigmoid(3.0 * (severity[:, -1] - 0.9))
    died = torch.rand(number, generator=generator, dtype=torch.float64) < odds
    return SeriesSet(
        times=tuple(grid[row].float() for row in rows),
        values=tuple(own[row] for own, row in zip(measured, rows, strict=True)),
        mask=tuple(own[row] for own, row in zip(mask, rows, strict=True)),
        subjects=tuple(f"stay {index + 1}" for index in range(number)),
        features=tuple(_VARIABLES),
        labels=died.long(),
        until=torch.full((number,), WINDOW),
        name="simulated stays",
    )


def _severity(number: int, grid: Tensor, generator: torch.Generator) -> Tensor:
    """A damped swing from the severity at admission to the patient's level, ``(number, times)``."""
    level = 0.9 * _normal(number, 1, generator=generator)
    swing = 0.3 + _normal(number, 1, generator=generator).abs()
    phase = 2.0 * math.pi * torch.rand(number, 1, generator=generator, dtype=torch.float64)
    period = 14.0 + 10.0 * torch.rand(number, 1, generator=generator, dtype=torch.float64)
    damping = (-grid / 30.0).exp()
    return level + swing * damping * (2.0 * math.pi * grid / period + phase).cos()


def _normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)
