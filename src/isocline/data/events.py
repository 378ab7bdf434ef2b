"""Times of events that follow a known intensity, so that a learned one can be held against it.

Inhomogeneous Poisson processes on [0, T], sampled by thinning (Lewis and Shedler 1979).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .errors import DataError
from .seeds import fold_seeds
from .series import SeriesSet

__all__ = ["Bumps", "Daily", "Decaying", "Intensity", "Moved", "event_series", "moved_intensities"]

# Events of one series: more are a mistake in the units, and would fill the memory.
MOST = 10_000_000


class Intensity(ABC):
    """Expected events per unit of time, on [0, end].

    A subclass gives the rate, its antiderivative on the whole line, and a bound on an interval.
    """

    end: float

    @abstractmethod
    def _rate(self, t: Tensor) -> Tensor:
        """The intensity at times of any shape, in their type."""

    @abstractmethod
    def _antiderivative(self, t: Tensor) -> Tensor:
        """A function whose derivative is the rate, in closed form."""

    @abstractmethod
    def _bound(self, t0: float, t1: float) -> float:
        """A number that the rate does not exceed between two times."""

    def rate(self, t: Tensor) -> Tensor:
        """The intensity at times of any shape, in their type; differentiable."""
        return self._rate(t)

    def integral(self, t0: Tensor | float, t1: Tensor | float) -> Tensor:
        """Expected number of events from `t0` to `t1`, which broadcast; float64 for floats."""
        ends = [
            t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64) for t in (t0, t1)
        ]
        return self._antiderivative(ends[1]) - self._antiderivative(ends[0])

    def log_likelihood(self, times: Tensor) -> Tensor:
        """Log likelihood of all events of one series on [0, end], in nats: 0-d, float64.

        The sum of the log intensities at the events, less the integral of the intensity.

        Args:
            times: ``(events,)``, none for a series without events.
        """
        return self.rate(times.double()).log().sum() - self.integral(0.0, self.end)


@dataclass(frozen=True)
class Daily(Intensity):
    """A rhythm: ``level * (1 + depth * sin(2 pi t / period + phase))``.

    Attributes:
        level: Mean intensity, positive.
        depth: From 0, constant, to 1, where the intensity touches zero.
        period: Length of a day.
        phase: In radians.
        end: End of the window.
    """

    level: float = 5.0
    depth: float = 0.8
    period: float = 1.0
    phase: float = 0.0
    end: float = 4.0

    def __post_init__(self) -> None:
        _check_positive(level=self.level, period=self.period, end=self.end)
        if not 0 <= self.depth <= 1:
            raise InputError("depth", repr(self.depth), "a number from 0 to 1")

    def _rate(self, t: Tensor) -> Tensor:
        return self.level * (1 + self.depth * (2 * math.pi * t / self.period + self.phase).sin())

    def _antiderivative(self, t: Tensor) -> Tensor:
        turn = 2 * math.pi / self.period
        return self.level * (t - self.depth * (turn * t + self.phase).cos() / turn)

    def _bound(self, t0: float, t1: float) -> float:
        return self.level * (1 + self.depth)


@dataclass(frozen=True)
class Bumps(Intensity):
    """Gaussian bumps on a floor: ``floor + sum(height * exp(-(t - centre)^2 / (2 width^2)))``.

    Attributes:
        floor: Intensity far from the bumps, positive.
        heights, centres, widths: One for each bump; none is negative, save centres.
        end: End of the window.
    """

    floor: float = 1.0
    heights: tuple[float, ...] = (20.0, 12.0)
    centres: tuple[float, ...] = (1.0, 2.8)
    widths: tuple[float, ...] = (0.2, 0.3)
    end: float = 4.0

    def __post_init__(self) -> None:
        _check_positive(floor=self.floor, end=self.end, widths=min(self.widths, default=1.0))
        if not len(self.heights) == len(self.centres) == len(self.widths):
            given = f"{len(self.heights)}, {len(self.centres)}, {len(self.widths)}"
            raise InputError("heights, centres, widths", given, "as many of each")
        if min(self.heights, default=0.0) < 0:
            raise InputError("heights", repr(self.heights), "no negative number")

    def _rate(self, t: Tensor) -> Tensor:
        total = torch.full_like(t, self.floor)
        for height, centre, width in zip(self.heights, self.centres, self.widths, strict=True):
            total = total + height * (-0.5 * ((t - centre) / width).square()).exp()
        return total

    def _antiderivative(self, t: Tensor) -> Tensor:
        total = self.floor * t
        for height, centre, width in zip(self.heights, self.centres, self.widths, strict=True):
            area = height * width * math.sqrt(math.pi / 2)
            total = total + area * ((t - centre) / (width * math.sqrt(2))).erf()
        return total

    def _bound(self, t0: float, t1: float) -> float:
        return self.floor + sum(self.heights)


@dataclass(frozen=True)
class Decaying(Intensity):
    """Activity that dies away: ``floor + height * exp(-t / timescale)``.

    Attributes:
        floor: Intensity in the end, positive.
        height: What is added at time 0, not negative.
        timescale: The time in which that falls to 1/e.
        end: End of the window.
    """

    floor: float = 0.5
    height: float = 20.0
    timescale: float = 1.0
    end: float = 4.0

    def __post_init__(self) -> None:
        _check_positive(floor=self.floor, timescale=self.timescale, end=self.end)
        if not 0 <= self.height < math.inf:
            raise InputError("height", repr(self.height), "a number, 0 or more")

    def _rate(self, t: Tensor) -> Tensor:
        return self.floor + self.height * (-t / self.timescale).exp()

    def _antiderivative(self, t: Tensor) -> Tensor:
        return self.floor * t - self.height * self.timescale * (-t / self.timescale).exp()

    def _bound(self, t0: float, t1: float) -> float:
        return self.floor + self.height * math.exp(-t0 / self.timescale)


@dataclass(frozen=True)
class Moved(Intensity):
    """Another intensity, moved and scaled: ``scale * rate(t - shift)``."""

    base: Intensity
    shift: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(scale=self.scale)

    @property
    def end(self) -> float:  # type: ignore[override]
        """The window is that of the other."""
        return self.base.end

    def _rate(self, t: Tensor) -> Tensor:
        return self.scale * self.base._rate(t - self.shift)

    def _antiderivative(self, t: Tensor) -> Tensor:
        return self.scale * self.base._antiderivative(t - self.shift)

    def _bound(self, t0: float, t1: float) -> float:
        return self.scale * self.base._bound(t0 - self.shift, t1 - self.shift)


def moved_intensities(
    base: Intensity, number: int, shift: float = 0.0, spread: float = 0.0, seed: int = 0
) -> tuple[Intensity, ...]:
    """Variants of an intensity, so that a latent state has something to encode.

    Args:
        base: What varies.
        number: How many.
        shift: Each is later by a time that is uniform between plus and minus this.
        spread: The logarithm of the scale of each is normal with this deviation and mean 0.
        seed: All that is random follows from it.
    """
    if number < 1:
        raise InputError("number", repr(number), "at least 1")
    generator = torch.Generator().manual_seed(fold_seeds(seed, 0))
    shifts = shift * (2 * torch.rand(number, generator=generator, dtype=torch.float64) - 1)
    scales = (spread * torch.randn(number, generator=generator, dtype=torch.float64)).exp()
    pairs = zip(shifts.tolist(), scales.tolist(), strict=True)
    return tuple(Moved(base, later, scale) for later, scale in pairs)


def event_series(
    intensity: Intensity | Sequence[Intensity], number: int = 1, seed: int = 0
) -> SeriesSet:
    """Draw series of events, each watched over the window of its intensity.

    Args:
        intensity: One for all, or one for each.
        number: How many series of each intensity.
        seed: All that is random follows from it. A series does not depend on how many there are.

    Returns:
        Series without features, with float32 times and `until`. With several intensities, all the
        series of the first come before those of the second.

    Raises:
        InputError: If `number` is below 1, or there is no intensity.
        DataError: If a series would have millions of events.
    """
    kinds = [intensity] if isinstance(intensity, Intensity) else list(intensity)
    if number < 1 or not kinds:
        raise InputError("number", f"{number} of {len(kinds)} intensities", "at least 1 of 1")
    times = [
        _thinned(kind, torch.Generator().manual_seed(fold_seeds(seed, which, each)))
        for which, kind in enumerate(kinds)
        for each in range(number)
    ]
    empty = [time.new_zeros(len(time), 0) for time in times]
    return SeriesSet(
        tuple(times),
        tuple(empty),
        tuple(part.bool() for part in empty),
        tuple(str(index) for index in range(len(times))),
        (),
        until=torch.tensor([kind.end for kind in kinds for _ in range(number)]),
        name="events",
    )


def _thinned(intensity: Intensity, generator: torch.Generator) -> Tensor:
    """A homogeneous process at the bound, of which each event stays with the odds of its rate."""
    bound = intensity._bound(0.0, intensity.end)
    mean = bound * intensity.end
    if not mean < MOST:
        raise DataError(
            f"events: a bound of {bound:g} per unit of time over {intensity.end:g} makes {mean:g} "
            "events in each series; expected a smaller intensity, or a shorter window"
        )
    count = int(torch.poisson(torch.tensor(mean, dtype=torch.float64), generator=generator))
    times, odds = torch.rand(2, count, generator=generator, dtype=torch.float64)
    times = times * intensity.end
    kept: Tensor = times[odds * bound < intensity.rate(times)]
    return kept.sort().values.float()


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise InputError(name, repr(number), "a positive number")
