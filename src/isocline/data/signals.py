"""Signals whose class lies in the order of their channels, each channel seen at its own times.

A made set that is hard for a summary: one wave passes all channels, one after another, and which
comes first is all that tells the classes apart. Each channel by itself is the same random process
in every class, so its mean, spread, trend or spectrum says nothing. Each has slow swings of size of
its own, so that the highest crest of one is seldom that of another; and since no two channels are
ever seen at one time, products of values in a row say nothing either. A model has to bring the
channels together in time, and to follow the wave.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from ..errors import InputError
from .seeds import fold_seeds
from .series import SeriesSet

__all__ = ["lead_lag"]

# Periods of the wave in the window, and of the swings of its size in each channel.
PERIODS = (2.0, 3.5)
SWINGS = (0.5, 1.5)

# How much the size swings, relative to its mean; and by how much of a period the wave is early or
# late for an even one.
DEPTH = 0.5
WARP = 0.1


def lead_lag(
    number: int,
    points: int = 50,
    dropped: float = 0.0,
    *,
    channels: int = 3,
    lag: float = 1 / 6,
    noise: float = 0.1,
    seed: int = 0,
) -> SeriesSet:
    """Waves that arrive at their channels in one of ``channels!`` orders, the class.

    A wave has 2 to 3.5 periods in the window [0, 1), a random phase, and is not quite even. Channel
    c shows it late by ``rank(c) * lag`` periods, in a size that swings about a mean of 1. Each
    channel is observed at times of its own, uniform in the window, with Gaussian noise; a row holds
    one value of one channel. With three channels, a guess is right in one of six cases.

    Args:
        number: How many series; classes are as even as they can be, in random order.
        points: Observations of each channel before any are dropped.
        dropped: The part of them that is dropped at random, in [0, 1); at least one of each
            channel stays. A set with more dropped holds a part of the same observations.
        channels: At least 2.
        lag: Between one channel and the next, in periods, below ``1 / channels``.
        noise: Standard deviation.
        seed: The set follows from it; other series come of another.

    Returns:
        Series with times float32 in [0, 1), features ``channel-0`` and so on, and as label the
        place of the order among `itertools.permutations`, in which rank(c) stands at place c.

    Raises:
        InputError: If an argument is out of range.
    """
    for name, value, least in (("number", number, 1), ("points", points, 1)):
        if value < least:
            raise InputError(name, str(value), f"at least {least}")
    if not 2 <= channels <= 6:
        raise InputError("channels", str(channels), "2 to 6; the classes are all their orders")
    if not 0 <= dropped < 1:
        raise InputError("dropped", str(dropped), "a part in [0, 1)")
    if not 0 < lag < 1 / channels:
        raise InputError("lag", str(lag), f"above 0, below 1 / {channels}: else orders look alike")
    if not 0 <= noise < math.inf:
        raise InputError("noise", str(noise), "a finite number, not below 0")
    orders = torch.tensor(list(itertools.permutations(range(channels))))
    generator = torch.Generator().manual_seed(fold_seeds(seed, 0))
    label = torch.arange(number) % len(orders)
    label = label[torch.randperm(number, generator=generator)]

    times = torch.rand(number, channels, points, generator=generator)
    signal = _wave(times, lag * orders[label].unsqueeze(-1), generator)
    values = signal + noise * torch.randn(times.shape, generator=generator)

    # The order in which observations go has its own stream: it must not depend on how many do.
    rank = torch.rand(times.shape, generator=generator).argsort(-1)
    kept = rank[..., : max(1, round(points * (1 - dropped)))]
    times, values = times.gather(-1, kept).flatten(1), values.gather(-1, kept).flatten(1)
    channel = torch.arange(channels).repeat_interleave(kept.shape[-1])
    times, order = times.sort(1)
    mask = torch.nn.functional.one_hot(channel[order], channels).bool()
    values = values.gather(1, order).unsqueeze(-1).where(mask, 0.0)
    return SeriesSet(
        times=tuple(times),
        values=tuple(values),
        mask=tuple(mask),
        subjects=tuple(f"signal-{index}" for index in range(number)),
        features=tuple(f"channel-{index}" for index in range(channels)),
        labels=label,
        until=torch.ones(number),
        name=f"lead-lag, {dropped:.0%} dropped",
    )


def _wave(times: Tensor, late: Tensor, generator: torch.Generator) -> Tensor:
    """A random wave for each series, at times ``(number, channels, points)``, late by periods."""
    number, channels, _ = times.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(number, *shape, 1, generator=generator)

    def turns(phase: Tensor) -> Tensor:
        return (2 * math.pi * phase).sin()

    periods = PERIODS[0] + (PERIODS[1] - PERIODS[0]) * uniform(1)
    phase = periods * times + uniform(1) + WARP * turns(times + uniform(1)) - late
    swings = SWINGS[0] + (SWINGS[1] - SWINGS[0]) * uniform(channels)
    return (1 + DEPTH * turns(swings * times + uniform(channels))) * turns(phase)
