"""Spirals in the plane that turn either way, seen at few points and through noise.

The toy of "Neural Ordinary Differential Equations" (Chen et al. 2018, section 5.1): half turn
clockwise and half the other way, each starts at a point of its own, and what is beyond the observed
turn is known too, so that extrapolation can be measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .seeds import fold_seeds
from .series import SeriesSet

__all__ = ["Spirals", "archimedean_spirals", "spirals"]

# The radius at angle 0, and what a radian adds to it.
RADIUS = 0.5
GROWTH = 0.1

# The authors' example: the span of the angle, the points on it, and its growth for each radian.
ARCHIMEDEAN_END = 6 * math.pi
ARCHIMEDEAN_POINTS = 1000
ARCHIMEDEAN_GROWTH = 0.3


@dataclass(frozen=True)
class Spirals:
    """Spirals, their truth, and what was seen of them.

    Attributes:
        times: float32, ``(t,)``, from 0: the `points` that may be observed, then those beyond.
        clean: float32, ``(n, t, 2)``, the truth.
        noisy: float32, ``(n, t, 2)``, with the noise of an observation.
        direction: int64, ``(n,)``: 1 for clockwise, 0 for counter-clockwise.
        points: How many times, from the first, may be observed.
        observed: How many of them `series` takes by default; ``None`` for all.
        seed: What the choice of observed points follows from.
        name: For messages.
    """

    times: Tensor
    clean: Tensor
    noisy: Tensor
    direction: Tensor
    points: int
    observed: int | None = None
    seed: int = 0
    name: str = "spirals"

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def times_beyond(self) -> Tensor:
        """The times beyond those that may be observed."""
        return self.times[self.points :]

    @property
    def clean_beyond(self) -> Tensor:
        """The truth at `times_beyond`."""
        return self.clean[:, self.points :]

    def series(self, observed: int | None = None, seed: int | None = None) -> SeriesSet:
        """Noisy observations at times of the observed span, drawn for each series without repeat.

        Args:
            observed: How many for each series; ``None`` for the number that the spirals were made
                with. A smaller number takes some of the points that a larger one takes.
            seed: Which points; ``None`` for the seed that the spirals were made with.

        Returns:
            Features ``x`` and ``y``; the labels are the directions.

        Raises:
            InputError: If there are not so many points.
        """
        count = self.observed if observed is None else observed
        count = self.points if count is None else count
        if not 1 <= count <= self.points:
            raise InputError("observed", repr(observed), f"a number from 1 to {self.points}")
        stream = fold_seeds(self.seed if seed is None else seed, 3)
        generator = torch.Generator().manual_seed(stream)
        ranks = torch.rand(len(self), self.points, generator=generator, dtype=torch.float64)
        chosen = ranks.argsort(dim=1)[:, :count].sort(dim=1).values
        values = self.noisy.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 2))
        return SeriesSet(
            tuple(self.times[chosen]),
            tuple(values),
            tuple(torch.ones_like(values, dtype=torch.bool)),
            tuple(str(number) for number in range(len(self))),
            ("x", "y"),
            labels=self.direction,
            name=self.name,
        )


def spirals(
    number: int,
    points: int = 100,
    beyond: int = 100,
    noise: float = 0.1,
    observed: int | None = None,
    seed: int = 0,
) -> Spirals:
    """Spirals whose radius grows with their angle: ``0.5 + 0.1 * angle``, half of them mirrored.

    The angle starts uniformly within the first turn and makes one turn in a unit of time, of
    `points` steps; so the observed turn is [0, 1).

    Args:
        number: How many; half of them (rounded down) turn clockwise, in random order.
        points: Points of the observed turn.
        beyond: Points after it, in the same steps.
        noise: Standard deviation of the noise of each coordinate.
        observed: How many of the points `Spirals.series` takes by default.
        seed: All that is random follows from it.

    Raises:
        InputError: If a number is too small, or more points are to be observed than there are.
    """
    _check(number, points, beyond, noise, observed)
    generator = torch.Generator().manual_seed(fold_seeds(seed, 0))
    start = 2 * math.pi * torch.rand(number, 1, generator=generator, dtype=torch.float64)
    times = torch.arange(points + beyond, dtype=torch.float64) / points
    angle = start + 2 * math.pi * times
    path = (RADIUS + GROWTH * angle).unsqueeze(-1) * torch.stack([angle.cos(), angle.sin()], -1)
    order = torch.randperm(number, generator=torch.Generator().manual_seed(fold_seeds(seed, 1)))
    direction = (order < number // 2).long()
    # Mirrored at the first axis, so that both kinds cover the same ground.
    path[..., 1] *= (1 - 2 * direction).unsqueeze(1)
    return _observed(times, path, direction, noise, points, observed, seed, "spirals")


def archimedean_spirals(
    number: int,
    points: int = 100,
    beyond: int = 0,
    noise: float = 0.3,
    observed: int | None = None,
    seed: int = 0,
) -> Spirals:
    """The spirals of the authors' public example (torchdiffeq, ``examples/latent_ode.py``).

    Two curves, of 1,000 points each over 6 pi: counter-clockwise the radius ``0.3 t`` about (5, 0);
    clockwise ``15 / z`` about (-5, 0) with the angle ``z = 6 pi + 1 - t``. A series is a stretch of
    one or the other, from a random point that is none of the first or the last 100; directions are
    drawn at random. Times count from the start of the stretch.

    Args:
        number: How many.
        points: Points that may be observed; 100 in the example.
        beyond: Points after them, which the example has not; the curves must reach so far.
        noise: Standard deviation of the noise of each coordinate.
        observed: How many of the points `Spirals.series` takes by default.
        seed: All that is random follows from it.

    Raises:
        InputError: If a number is too small, or the curves are too short for so many points.
    """
    _check(number, points, beyond, noise, observed)
    starts = ARCHIMEDEAN_POINTS - 2 * points - beyond
    if starts < 1:
        expected = f"2 * points + beyond below {ARCHIMEDEAN_POINTS}, the points of a curve"
        raise InputError("points, beyond", f"{points} and {beyond}", expected)
    along = torch.linspace(0, ARCHIMEDEAN_END, ARCHIMEDEAN_POINTS, dtype=torch.float64)
    inward = ARCHIMEDEAN_END + 1 - along
    curves = torch.stack(
        [
            _curve(ARCHIMEDEAN_GROWTH * along, along, 5.0),
            _curve(50 * ARCHIMEDEAN_GROWTH / inward, inward, -5.0),
        ]
    )
    generator = torch.Generator().manual_seed(fold_seeds(seed, 0))
    start = points + torch.randint(starts, (number, 1), generator=generator)
    direction = torch.randint(
        2, (number,), generator=torch.Generator().manual_seed(fold_seeds(seed, 1))
    )
    places = start + torch.arange(points + beyond)
    path = curves[direction.unsqueeze(1), places]
    times = along[: points + beyond]
    return _observed(times, path, direction, noise, points, observed, seed, "archimedean-spirals")


def _curve(radius: Tensor, angle: Tensor, centre: float) -> Tensor:
    return torch.stack([radius * angle.cos() + centre, radius * angle.sin()], dim=-1)


def _observed(
    times: Tensor,
    path: Tensor,
    direction: Tensor,
    noise: float,
    points: int,
    observed: int | None,
    seed: int,
    name: str,
) -> Spirals:
    """The noise, and everything in single precision."""
    generator = torch.Generator().manual_seed(fold_seeds(seed, 2))
    error = noise * torch.randn(path.shape, generator=generator, dtype=torch.float64)
    noisy = (path + error).float()
    return Spirals(times.float(), path.float(), noisy, direction, points, observed, seed, name)


def _check(number: int, points: int, beyond: int, noise: float, observed: int | None) -> None:
    if number < 1 or points < 1 or beyond < 0:
        given = f"{number}, {points}, {beyond}"
        raise InputError("number, points, beyond", given, "at least 1, 1 and 0")
    if not 0 <= noise < math.inf:
        raise InputError("noise", repr(noise), "a standard deviation, 0 or more")
    if observed is not None and not 1 <= observed <= points:
        raise InputError("observed", repr(observed), f"a number from 1 to {points}, or None")
