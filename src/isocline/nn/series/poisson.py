"""Event times: an inhomogeneous Poisson process whose intensity a latent state gives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InputError
from ...irregular import IrregularBatch

__all__ = ["PoissonProcess", "draw_events"]

# Of the logarithm of a rate: no process has so many events, and float32 still holds their number.
_HIGHEST = 50.0
# Events of one series that are drawn: more would fill the memory.
_MOST = 1e7


class PoissonProcess(nn.Module):
    """The likelihood of event times.

    ``log p(t_1, ..., t_n | start, end) = sum_i log rate(z(t_i)) - integral of rate(z(t)) dt`` (Chen
    et al. 2018, section 5). The integral is one more component of the solve that gives z.

    Args:
        intensity: Network from the latent state, ``(..., latent)``, to the logarithm of the rate in
            units of `scale`, ``(..., kinds)``. A burst is a few units of it: of the rate itself it
            would be a long way for an optimiser's small steps.
        kinds: Kinds of events. With one, every row of a batch is an event. With as many as there
            are features, each observed value is an event of its feature's kind: what is measured
            when tells something too (Rubanova et al. 2019, section 3.4).
        scale: A usual rate, for all kinds or ``(kinds,)``: the rate where the network says 0.

    Raises:
        InputError: If there is no kind, or a usual rate is not positive and finite.
    """

    def __init__(
        self, intensity: nn.Module, kinds: int = 1, *, scale: float | Tensor = 1.0
    ) -> None:
        super().__init__()
        if kinds < 1:
            raise InputError("kinds", str(kinds), "at least 1")
        log_scale = torch.as_tensor(scale, dtype=torch.get_default_dtype()).log()
        if log_scale.shape not in ((), (kinds,)) or not bool(log_scale.isfinite().all()):
            raise InputError("scale", str(scale), f"positive, a number or of shape ({kinds},)")
        self.log_scale: Tensor
        self.register_buffer("log_scale", log_scale.expand(kinds).clone())
        self.intensity = intensity
        self.kinds = kinds

    def rate(self, z: Tensor) -> Tensor:
        """Events per unit of time, ``(..., kinds)``."""
        return self._log_rate(z).exp()

    def events(self, batch: IrregularBatch) -> Tensor:
        """bool, ``(batch, rows, kinds)``: which events a batch holds.

        Raises:
            InputError: If the kinds do not fit the features.
        """
        if self.kinds == 1:
            return batch.present.unsqueeze(-1)
        if batch.features != self.kinds:
            expected = f"{self.kinds}, as the process has {self.kinds} kinds of events"
            raise InputError("features of the batch", str(batch.features), expected)
        return batch.mask

    def window(self, batch: IrregularBatch, start: float) -> Tensor:
        """The end of the window of each series, ``(batch,)``, which begins at `start`.

        Raises:
            InputError: If the batch has no `until`, or there is something before the start.
        """
        if batch.until is None:
            given, expected = "no `until`", "the end of the window in which events were watched"
            raise InputError("target", given, expected)
        early = (batch.times < start) & batch.present
        if bool(early.any()) or bool((batch.until < start).any()):
            given, expected = f"times before t0 = {start:g}", "a window of events that begins there"
            raise InputError("target", given, expected, "`target.shifted` moves it.")
        return batch.until

    def log_likelihood(self, z: Tensor, events: Tensor, integral: Tensor) -> Tensor:
        """Log likelihood of events.

        Args:
            z: Latent states at the rows, ``(batch, rows, ..., latent)``.
            events: bool, ``(batch, rows, ..., kinds)``: which kinds happened there.
            integral: Of the rate over the window, ``(batch, ..., kinds)``.

        Returns:
            ``(batch, ...)``.
        """
        return self._log_rate(z).masked_fill(~events, 0.0).sum((1, -1)) - integral.sum(-1)

    def _log_rate(self, z: Tensor) -> Tensor:
        log_rate: Tensor = self.intensity(z) + self.log_scale
        return log_rate.clamp(max=_HIGHEST)


def draw_events(
    grid: Tensor, integral: Tensor, until: float, generator: torch.Generator | None = None
) -> IrregularBatch:
    """Events of Poisson processes with known integrated rates.

    Arrivals of a process with rate 1 in the time of the integral, which is inverted: linearly
    between the grid's times.

    Args:
        grid: ``(points,)``, rising.
        integral: ``(batch, points, kinds)``, rising along the points.
        until: End of the window.
        generator: Source of the random numbers.

    Returns:
        The events of all kinds in order of time. With one kind a row has no features; with more it
        has one for each, observed, and 1, for the kind that happened.

    Raises:
        InputError: If a series is expected to have more than ten million events.
    """
    batch, _, kinds = integral.shape
    levels = integral.movedim(-1, 1) - integral.movedim(-1, 1)[..., :1]
    most_expected = float(levels[..., -1].detach().max())
    if not most_expected <= _MOST:
        raise InputError("intensity", f"{most_expected:g} events expected", f"at most {_MOST:g}")
    counts = torch.poisson(levels[..., -1].double(), generator)
    most = max(int(counts.max()), 1)
    # Given their number, the arrivals are uniform in the integral's time.
    shape = (batch, kinds, most)
    uniform = torch.rand(shape, generator=generator, dtype=levels.dtype, device=levels.device)
    arrivals = uniform * levels[..., -1:]
    times = _interpolate(grid, levels, arrivals)
    happened = torch.arange(most, device=levels.device) < counts.unsqueeze(-1)
    series = []
    kind = torch.arange(kinds, device=levels.device).unsqueeze(-1).expand(kinds, most)
    for own, real in zip(times, happened, strict=True):
        order = own[real].argsort()
        which = F.one_hot(kind[real][order], kinds).bool()
        series.append((own[real][order], which))
    end = torch.full((batch,), until, dtype=grid.dtype, device=grid.device)
    if kinds == 1:
        return IrregularBatch.collate([own for own, _ in series], until=end)
    return IrregularBatch.collate(
        [own for own, _ in series],
        [which.to(levels.dtype) for _, which in series],
        [which for _, which in series],
        end,
    )


def _interpolate(grid: Tensor, levels: Tensor, wanted: Tensor) -> Tensor:
    """Where rising `levels` on the grid, ``(..., points)``, reach `wanted`, ``(..., n)``."""
    right = torch.searchsorted(levels.contiguous(), wanted.contiguous())
    right = right.clamp(1, len(grid) - 1)
    low, high = levels.gather(-1, right - 1), levels.gather(-1, right)
    share = (wanted - low) / (high - low).clamp(min=torch.finfo(levels.dtype).tiny)
    return torch.lerp(grid[right - 1], grid[right], share.clamp(0.0, 1.0))
