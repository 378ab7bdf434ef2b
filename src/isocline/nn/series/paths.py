"""Paths of a latent state through the times of a batch, and what is integrated along them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ...compiling import untraced
from ...errors import InputError
from ...irregular import Union, union_of
from ...problem import SaveAt
from ...transforms import active
from ..choice import CheaperWay
from ..solving import SolvingModule, as_state
from ..stopwatch import PassTimer
from .poisson import PoissonProcess

__all__ = ["LatentPaths", "Paths", "SeriesStepping"]

SeriesStepping = Literal["joint", "per_sample", "auto"]


class Paths(NamedTuple):
    """Latent states and integrals at each series' times.

    Attributes:
        z: ``(batch, times, samples, latent)``.
        integral: Of the rates from t0, ``(batch, times, samples, kinds)``, if there are any.
    """

    z: Tensor
    integral: Tensor | None


class _Dynamics(nn.Module):
    """The field of a latent state z, or of z and the integral of an intensity.

    Args:
        field: Called as ``field(t, z)``.
        events: Whose rate is integrated beside z; ``None`` for z alone.
    """

    def __init__(self, field: nn.Module, events: PoissonProcess | None) -> None:
        super().__init__()
        self.field = field
        self.events = events

    def start(self, z: Tensor) -> tuple[Tensor, ...]:
        """The state in which a solve starts from latent states ``(batch, latent)``."""
        if self.events is None:
            return (z,)
        return z, z.new_zeros(len(z), self.events.kinds)

    def forward(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The state's derivative."""
        z = state[0]
        slope: Tensor = self.field(t, z)
        return (slope,) if self.events is None else (slope, self.events.rate(z))


class LatentPaths(SolvingModule):
    """A field of a latent state, and its solves.

    Args:
        field: Called as ``field(t, z)`` with z of shape ``(batch, latent)``.
        events: Whose rates are integrated along; ``None`` for no events.
        t0: Where the paths begin.
        stepping: See `LatentODE`.
        **settings: Of `SolvingModule`.

    Attributes:
        choice: What is known of the costs of joint and of per-sample stepping, for "auto".

    Raises:
        InputError: If there is no such stepping.
    """

    def __init__(
        self,
        field: nn.Module,
        events: PoissonProcess | None,
        t0: float,
        *,
        stepping: SeriesStepping = "joint",
        **settings: Any,
    ) -> None:
        known = get_args(SeriesStepping)
        if stepping not in known:
            raise InputError("stepping", repr(stepping), f"one of {', '.join(map(repr, known))}")
        super().__init__(**settings)
        self.stepping = stepping
        self.dynamics = _Dynamics(field, events)
        self.t0 = t0
        self.choice = CheaperWay(("joint", "per_sample"))

    @property
    def field(self) -> nn.Module:
        """The field of the latent state."""
        return self.dynamics.field

    @property
    def events(self) -> PoissonProcess | None:
        """The likelihood of event times."""
        return self.dynamics.events

    def paths(self, z0: Tensor, times: Tensor, valid: Tensor | None = None) -> Paths:
        """Latent states at each series' times: one solve to each side of t0.

        With joint stepping it goes through the union of all times; with per-sample stepping each
        series goes through its own.

        Args:
            z0: ``(batch, samples, latent)``.
            times: ``(batch, times)``.
            valid: Which times count.
        """
        if not times.shape[1]:  # nothing to solve
            return self._joint_paths(z0, union_of(times, valid))
        if self.stepping == "auto":
            return self._cheaper_paths(z0, times, valid)
        if self.stepping == "per_sample":
            return self._own_paths(z0, times, valid)
        return self._joint_paths(z0, union_of(times, valid), stepping=self.stepping)

    @untraced
    def _cheaper_paths(self, z0: Tensor, times: Tensor, valid: Tensor | None) -> Paths:
        """The same in the way that was measured to be cheaper, or is to be measured."""
        union = union_of(times, valid)
        ways: dict[str, Callable[[Tensor], Paths]] = {
            "joint": partial(self._joint_paths, union=union),
            "per_sample": partial(self._own_paths, times=times, valid=valid),
        }
        # Times of one run are not those of another. Who wants the same bits gets the same way.
        if active() or torch.are_deterministic_algorithms_enabled():
            return ways["joint"](z0)
        kind = self._kind(z0, times, union)
        trains = self.training and torch.is_grad_enabled() and z0.requires_grad
        way, wanted = self.choice.ask(kind, trial=trains)
        run = ways[way]
        if wanted:
            run = partial(self._timed, run, partial(self.choice.tell, kind, way))
        if way == "joint":
            return run(z0)
        try:
            return run(z0)
        except InputError as error:
            found = ways["joint"](z0)  # which refuses, too, what is wrong either way
            self.choice.exclude(kind, way)
            warnings.warn(f'stepping="auto" stays with "joint": {error}', stacklevel=3)
            return found

    def _kind(self, z0: Tensor, times: Tensor, union: Union) -> Hashable:
        """Batches that cost about the same: sizes to a factor of two, and how they are solved."""
        sizes = (z0.shape[0] * z0.shape[1], times.shape[1], len(union.times))
        settings = (self.solver, self.adjoint, self.norm)
        how = [one if isinstance(one, str) else type(one).__name__ for one in settings]
        where = (str(z0.device), str(z0.dtype))
        return (*where, *(size.bit_length() for size in sizes), *how, self.compiled)

    def _timed(
        self, run: Callable[[Tensor], Paths], report: Callable[[float], None], z0: Tensor
    ) -> Paths:
        """The paths, whose seconds are reported once the backward pass is through."""
        timer = PassTimer(self.choice.clock, z0.device, report)
        start = timer.entering(z0)
        with timer.forward():
            found = run(start)
        timer.leaving(path for path in found if path is not None)
        return found

    def _joint_paths(self, z0: Tensor, union: Union, stepping: str = "joint") -> Paths:
        """All series together through the union of their times."""
        batch, samples = z0.shape[:2]
        start = self.dynamics.start(as_state(z0.flatten(0, 1)))
        parts: list[tuple[Tensor, ...]] = []
        self._forget_solves()
        t0 = float(union.times.new_tensor(self.t0))  # rounded as the times are
        early = union.times < t0
        for grid, backward in ((union.times[early], True), (union.times[~early], False)):
            if len(grid):
                onward = grid.flip(0) if backward else grid
                solution = self._solve(
                    self.dynamics,
                    start,
                    t0,
                    float(onward[-1]),
                    save=SaveAt(ts=onward),
                    continued=True,
                    stepping=stepping,
                )
                parts.append(tuple(y.flip(0) if backward else y for y in solution.ys))
        if not parts:  # no times at all
            parts.append(tuple(y.new_zeros(0, *y.shape) for y in start))
        joined = (
            torch.cat(part) if len(part) > 1 else part[0] for part in zip(*parts, strict=True)
        )
        gathered = [union.gather(path.unflatten(1, (batch, samples))) for path in joined]
        return Paths(gathered[0], gathered[1] if len(gathered) > 1 else None)

    def _own_paths(self, z0: Tensor, times: Tensor, valid: Tensor | None) -> Paths:
        """The same, each series at its own pace and through its own times alone."""
        batch, samples = z0.shape[:2]
        known = times.double()
        t0 = float(times.new_tensor(self.t0))  # rounded as the times are
        if valid is not None:  # what does not count stands at t0, where it costs nothing
            known = known.masked_fill(~valid, t0)
        rising, order = known.sort(dim=1)
        start = self.dynamics.start(as_state(z0.flatten(0, 1)))
        self._forget_solves()
        sides: list[tuple[Tensor, ...]] = []
        for onward in (rising.clamp(min=t0), rising.clamp(max=t0).flip(1)):
            rows = onward.repeat_interleave(samples, 0)
            ends = rows[:, -1]
            if not sides or bool((ends != t0).any()):
                solution = self._solve(
                    self.dynamics,
                    start,
                    t0,
                    ends,
                    save=SaveAt(ts=rows),
                    continued=True,
                    stepping="per_sample",
                )
                sides.append(solution.ys)
        early = (rising < t0).repeat_interleave(samples, 0).t().unsqueeze(-1)
        paths = list(sides[0])
        if len(sides) > 1:
            backward = (path.flip(0) for path in sides[1])
            paths = [torch.where(early, b, f) for f, b in zip(paths, backward, strict=True)]
        back = order.argsort(dim=1)
        found = [_in_order(path.unflatten(1, (batch, samples)), back) for path in paths]
        return Paths(found[0], found[1] if len(found) > 1 else None)


def _in_order(path: Tensor, order: Tensor) -> Tensor:
    """``(times, batch, samples, size)`` to ``(batch, times, samples, size)``, in this order."""
    path = path.transpose(0, 1)
    return path.gather(1, order[:, :, None, None].expand_as(path))
