"""`Problem` and `Plan`: what is solved, and how. The front door makes them, all else reads them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .controllers.base import Controller
from .controllers.norms import Norm
from .events import PackedEvent
from .solvers.base import Solver, Time
from .state import Packing, State, tree_leaves
from .transforms import active

__all__ = ["Autocast", "PackedField", "Plan", "Problem", "SaveAt", "TimeTensors", "autocast_off"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveAt:
    """What a solve keeps.

    Saved states come in the order of their times: t0, then ts and steps, then t1.

    Attributes:
        t0: keep the initial state.
        t1: keep the final state. The default, unless `ts`, `steps` or `dense` is given.
        ts: times at which to keep the state, in the order of the solve (falling when t1 < t0)
            and within it; a sequence of numbers or a tensor of shape (T,), which may require
            grad. Output between steps comes from the method's own interpolant. With per-sample
            stepping each sample may have its own: a matrix of shape (batch, T), padded at the end
            of rows, or a sequence of one vector for each sample.
        lengths: how many times of a padded matrix `ts` count, for each sample.
        steps: keep the state after every accepted step (the last of them is t1).
        dense: keep the continuous solution; the `Solution` can then be called.
        fn: `fn(t, y)` is kept in place of y: a tensor or a structure of tensors, of one shape
            for all times. Saves memory when less than the whole state is wanted. With per-sample
            stepping it is asked once, after the solve, about all m saved states: t has the shape
            (m,), and m leads in every leaf of y and of the answer.
    """

    t0: bool = False
    t1: bool | None = None
    ts: Tensor | Sequence[float] | Sequence[Tensor] | None = None
    lengths: Tensor | Sequence[int] | None = None
    steps: bool = False
    dense: bool = False
    fn: Callable[[Tensor, State], State] | None = None

    @property
    def keeps_t1(self) -> bool:
        """Whether the final state is asked for by itself (with `steps` it comes anyway)."""
        if self.t1 is None:
            return self.ts is None and not self.steps and not self.dense
        return self.t1 and not self.steps

    @property
    def rests(self) -> bool:
        """Whether there may be steps of which nothing is kept."""
        return not (self.steps or self.dense)


@dataclass(frozen=True, slots=True)
class Autocast:
    """The caller's autocast state, so that every evaluation of the field sees it.

    The solver's own sums stay out of autocast (it would turn `addmv` into half precision), and
    the backward pass, which PyTorch runs without autocast, sees the same as the forward pass.
    """

    device_type: str
    dtype: torch.dtype

    @classmethod
    def ambient(cls, device: torch.device) -> Autocast | None:
        """The state in force for `device`, or None where autocast is off."""
        if not torch.is_autocast_enabled(device.type):
            return None
        return cls(device.type, torch.get_autocast_dtype(device.type))

    def on(self) -> torch.autocast:
        """Context for the field.

        Weights that are cast where no graph is recorded must not stay in autocast's cache:
        they would be reused, without their gradient, by the caller's own layers.
        """
        recording = torch.is_grad_enabled()
        return torch.autocast(self.device_type, self.dtype, cache_enabled=recording)


def autocast_off(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Context of a solve or of its backward pass: the solver's own arithmetic is not autocast."""
    if not torch.is_autocast_enabled(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


class PackedField:
    """The vector field over packed states: `(t, y) -> dy/dt`, counting its evaluations.

    Args:
        func: the user's `field(t, y, *args)`.
        packing: how y is packed.
        args: handed on to `func`.
        autocast: the caller's autocast, restored around each evaluation.
    """

    def __init__(
        self,
        func: Callable[..., State],
        packing: Packing,
        args: tuple[Any, ...] = (),
        autocast: Autocast | None = None,
    ) -> None:
        self.func = func
        self.packing = packing
        self.args = args
        self.autocast = autocast
        self.evaluations = 0
        self.jacobians = 0  # these two are counted by implicit solvers
        self.linear_solves = 0
        self.tensor_args = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        plain = packing.single and packing.dtypes[0] == packing.dtype and not active()
        self._shape = packing.shapes[0] if plain else None

    @functools.cached_property
    def _strides(self) -> tuple[int, ...]:
        return torch.empty(self.packing.shapes[0], device="meta").stride()

    @property
    def time_like(self) -> Tensor:
        """An empty tensor of the dtype and on the device of the times that the field is given."""
        return torch.empty(0, dtype=self.packing.time_dtype, device=self.packing.device)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt at the 0-d time `t` and the packed state `y`, both shaped as given: (N,)."""
        self.evaluations += 1
        shape = self._shape
        if shape is None:
            state = self.packing.unpack(y)
        elif torch.is_grad_enabled():
            state = y.view(shape)
        else:  # the same view, at a third of the price of parsing a shape for `view`
            state = y.as_strided(shape, self._strides)
        if self.autocast is not None:
            with self.autocast.on():
                derivative = self.func(t, state, *self.args)
        else:
            derivative = self.func(t, state, *self.args)
        if (
            shape is not None
            and isinstance(derivative, Tensor)
            and derivative.shape == shape
            and derivative.dtype == y.dtype
            and derivative.device == y.device
        ):
            return derivative.flatten()
        self.packing.check_derivative(derivative)
        return self.packing.pack(derivative)


class TimeTensors(NamedTuple):
    """The times of a solve as tensors, for gradients with respect to them.

    The loop runs on floats. Where a time requires grad, the step that starts at t0, the step
    that ends at t1 and the outputs at ts are given these 0-d (for `ts`: 1-d) float64 tensors
    instead, which live on the host like all times. The grid between is a constant of the discrete
    solve: it does not move with its ends.
    """

    t0: Tensor
    t1: Tensor
    ts: Tensor

    def detached(self) -> TimeTensors:
        """The same times as fresh leaves that require grad, to differentiate one step."""
        return TimeTensors(
            *(time.detach().clone().requires_grad_() for time in (self.t0, self.t1, self.ts))
        )


@dataclass(frozen=True, slots=True)
class Problem:
    """An initial value problem over packed states.

    Attributes:
        field: the packed vector field.
        y0: packed initial state, shape (N,).
        t0, t1: span of the solve, as host floats (double precision).
        f0: field at (t0, y0) when it is known already, detached.
        times: t0, t1 and the output times as tensors if any of them requires grad, else None.
    """

    field: PackedField
    y0: Tensor
    t0: float
    t1: float
    f0: Tensor | None = None
    times: TimeTensors | None = None

    @property
    def direction(self) -> int:
        """+1 where time rises from t0 to t1, -1 where it falls."""
        return 1 if self.t1 >= self.t0 else -1

    def owners(self, times: Sequence[float], ts: Sequence[float]) -> list[int | str | None]:
        """Whose each of the times of saved states is.

        Args:
            times: as the loop met them.
            ts: the output times asked for, in the same order.

        Returns:
            An index into `ts`, "t0", "t1", or None for a step's end in between, which is a constant
            of the discrete solve.
        """
        found: list[int | str | None] = []
        wanted = 0
        for t in times:
            if wanted < len(ts) and t == ts[wanted]:
                found.append(wanted)
                wanted += 1
            else:
                found.append({self.t0: "t0", self.t1: "t1"}.get(t))
        return found

    def traced(self, times: Sequence[float], ts: Sequence[float]) -> list[Time]:
        """Times of saved states, as tensors where a gradient with respect to times is wanted."""
        if self.times is None:
            return list(times)
        named = {"t0": self.times.t0, "t1": self.times.t1, None: None}
        found: list[Time] = []
        for t, owner in zip(times, self.owners(times, ts), strict=True):
            tensor = self.times.ts[owner] if isinstance(owner, int) else named[owner]
            found.append(t if tensor is None else tensor)
        return found


@dataclass(frozen=True, slots=True)
class Plan:
    """How a problem is solved.

    Attributes:
        solver: the method.
        controller: chooses steps.
        rtol, atol: floats, or packed vectors of shape (N,).
        norm: reduces a packed vector to one non-negative number; the batch it sees is `packing`'s.
        dt0: first step, as a positive float, or None to choose it (Hairer).
        save: what to keep; `ts` are its times as floats.
        max_steps: limit on attempted steps.
        on_step: called with the time after each accepted step (for progress), or None.
        reduce: what to keep of a packed state to be saved, in place of it (`SaveAt.fn`), or None.
            Not together with events.
        events: what to look for along the way.
    """

    solver: Solver
    controller: Controller
    rtol: float | Tensor
    atol: float | Tensor
    norm: Norm
    dt0: float | None
    save: SaveAt
    ts: tuple[float, ...]
    max_steps: int
    on_step: Callable[[float], None] | None = None
    reduce: Callable[[Time, Tensor], State] | None = None
    events: tuple[PackedEvent, ...] = ()
