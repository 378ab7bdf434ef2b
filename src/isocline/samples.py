"""What is solved under per-sample stepping, where each sample has a time and a step of its own.

A state is a matrix here, one row for each sample: the leaves of a structure lie side by side. The
rows of the samples that are being solved at a moment are lanes; a sample that is done leaves. So
the field is asked about some samples only, and what belongs to samples among its arguments must be
known as such: `PerSample` says it.

Time rises in every lane. A sample that is solved backward has the clock u = -t, and the field is
turned round for it here, so that nothing below knows of directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .controllers.base import Controller
from .errors import InputError
from .events import Event
from .problem import Autocast, SaveAt
from .solvers.base import Solver
from .state import Packing, State, tree_describe, tree_leaves, tree_rebuild

__all__ = [
    "LaneField",
    "PerSample",
    "SampleField",
    "SamplePlan",
    "SampleProblem",
    "SampleTimes",
    "check_marked",
    "matrix_of",
    "rows_packing",
    "without_marks",
]


@dataclass(frozen=True, slots=True)
class PerSample:
    """Marks a value that has one entry for each sample of the batch.

    In `args` it makes the field be given the entries of those samples that it is asked about:
    under per-sample stepping these are not always all. For `rtol`, `atol` and `dt0` it means one
    number a sample. With joint stepping a marked argument is handed on whole.

    Attributes:
        value: a tensor, or a nested tuple, list or dict of tensors.
        axis: which of their axes is the batch.
    """

    value: Any
    axis: int = 0


def without_marks(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments as the field is to see them for the whole batch."""
    return tuple(arg.value if isinstance(arg, PerSample) else arg for arg in args)


def rows_packing(packing: Packing, count: int) -> Packing:
    """The layout of a state of `count` samples."""
    shapes = tuple(torch.Size((count, *shape[1:])) for shape in packing.shapes)
    return replace(packing, shapes=shapes, sizes=tuple(map(torch.Size.numel, shapes)), batch=count)


def matrix_of(packing: Packing, state: State) -> Tensor:
    """The rows of a state, shape (samples, elements of a sample)."""
    leaves = [state] if packing.single else packing.leaves(state)
    rows = [leaf.reshape(leaf.shape[0], -1).to(packing.dtype) for leaf in leaves]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)


class SampleField:
    """A vector field over samples: it is bound to some of them by `at`.

    Args:
        func: the user's `field(t, y, *args)`.
        packing: how the state of the whole batch is laid out.
        args: handed on to `func`; those marked `PerSample` in part.
        autocast: the caller's autocast, restored around each evaluation.
        signs: which way each sample goes in time, +1 or -1, shape (batch,); None where all rise.

    Attributes:
        evaluations: calls of `func` so far.
        rows: samples that they were about, in sum.
    """

    def __init__(
        self,
        func: Callable[..., State],
        packing: Packing,
        args: tuple[Any, ...] = (),
        autocast: Autocast | None = None,
        signs: Tensor | None = None,
    ) -> None:
        self.func = func
        self.packing = packing
        self.autocast = autocast
        self.args = without_marks(args)
        self.axes = tuple(arg.axis if isinstance(arg, PerSample) else None for arg in args)
        self.signs = signs
        self.evaluations = 0
        self.rows = 0
        self.tensor_args = [leaf for leaf in tree_leaves(self.args) if isinstance(leaf, Tensor)]
        self.widths = [shape[1:].numel() for shape in packing.shapes]
        self.plain = packing.single and packing.dtypes[0] == packing.dtype

    @property
    def batch(self) -> int:
        """Number of samples."""
        return int(self.packing.shapes[0][0])

    @property
    def width(self) -> int:
        """Number of elements of one sample."""
        return sum(self.widths)

    def at(self, samples: Tensor | None) -> LaneField:
        """The field for some samples, by their indices, shape (lanes,); for all with None."""
        whole = LaneField(self, self.batch, self.args, self.signs)
        return whole if samples is None else whole.of(samples)

    def count(self, evaluations: int, lanes: int) -> None:
        """Count calls that were about so many samples each."""
        self.evaluations += evaluations
        self.rows += evaluations * lanes

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """The field for the whole batch: (batch,) and (batch, width) -> (batch, width)."""
        return self.at(None)(t, y)

    def unpack(self, rows: Tensor) -> State:
        """The state that a matrix of any number of samples holds."""
        count = rows.shape[0]
        packing = self.packing
        if packing.single:
            return self._leaf(rows, 0, count)
        parts = rows.split(self.widths, dim=1)
        leaves: Iterator[Tensor] = (self._leaf(part, i, count) for i, part in enumerate(parts))
        return tree_rebuild(packing.template, leaves)

    def _leaf(self, part: Tensor, number: int, count: int) -> Tensor:
        dtype, shape = self.packing.dtypes[number], self.packing.shapes[number]
        if part.is_complex() and not dtype.is_complex:
            part = part.real
        return part.to(dtype).reshape(count, *shape[1:])


class LaneField:
    """The field for some samples, with their share of the arguments.

    Args:
        owner: counts evaluations.
        count: number of samples.
        args: what belongs to samples among them is cut to these.
        signs: which way each of them goes, or None.
        samples: which they are, shape (count,); None for the whole batch.
    """

    def __init__(
        self,
        owner: SampleField,
        count: int,
        args: tuple[Any, ...],
        signs: Tensor | None,
        samples: Tensor | None = None,
    ) -> None:
        self.owner = owner
        self.count = count
        self.samples = samples
        self.args = args
        self.signs = signs
        self._shape = torch.Size((count, *owner.packing.shapes[0][1:]))
        self._flat = len(self._shape) == 2

    def of(self, lanes: Tensor) -> LaneField:
        """The field for some of these samples, by their positions, shape (lanes,)."""
        args = tuple(
            arg if axis is None else _entries(arg, lanes, axis)
            for arg, axis in zip(self.args, self.owner.axes, strict=True)
        )
        signs = None if self.signs is None else self.signs.index_select(0, lanes)
        samples = lanes if self.samples is None else self.samples.index_select(0, lanes)
        return LaneField(self.owner, len(lanes), args, signs, samples)

    def again(self) -> LaneField:
        """The same, cut out of the whole batch's arguments anew, with a graph in grad mode."""
        return self.owner.at(self.samples)

    def applied(self, function: Callable[..., Any], t: Tensor, y: Tensor) -> Any:
        """What `function(t, y, *args)` says at the clocks and states of these samples."""
        if self.signs is not None:
            t = t * self.signs.to(t.dtype)
        return function(t, self.owner.unpack(y), *self.args)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/du at the clocks u, shape (count,), and the states, shape (count, width)."""
        owner = self.owner
        owner.count(1, self.count)
        if self.signs is not None:
            t = t * self.signs.to(t.dtype)
        state = (y if self._flat else y.view(*self._shape)) if owner.plain else owner.unpack(y)
        if owner.autocast is not None:
            with owner.autocast.on():
                derivative = owner.func(t, state, *self.args)
        else:
            derivative = owner.func(t, state, *self.args)
        if (
            owner.plain
            and isinstance(derivative, Tensor)
            and derivative.shape == self._shape
            and derivative.dtype == y.dtype
            and derivative.device == y.device
        ):
            slope = derivative if self._flat else derivative.reshape(y.shape)
        else:
            rows_packing(owner.packing, self.count).check_derivative(derivative)
            slope = matrix_of(owner.packing, derivative)
        return slope if self.signs is None else slope * self.signs.to(slope.real.dtype).unsqueeze(1)


def _entries(value: Any, lanes: Tensor, axis: int) -> Any:
    """The entries of a `PerSample` value that belong to some samples."""
    leaves = [leaf.index_select(axis, lanes) for leaf in tree_leaves(value)]
    return tree_rebuild(value, iter(leaves))


def _has_entries(leaf: Any, batch: int, axis: int) -> bool:
    if not isinstance(leaf, Tensor) or not -leaf.ndim <= axis < leaf.ndim:
        return False
    return leaf.shape[axis] == batch


def check_marked(args: tuple[Any, ...], batch: int) -> None:
    """Raise unless every marked argument has one entry for each sample.

    Raises:
        InputError: naming the argument.
    """
    for place, arg in enumerate(args):
        if not isinstance(arg, PerSample):
            continue
        leaves = tree_leaves(arg.value)
        if not all(_has_entries(leaf, batch, arg.axis) for leaf in leaves):
            raise InputError(
                f"args[{place}]",
                f"PerSample({tree_describe(arg.value)}, axis={arg.axis})",
                f"tensors of which that axis has the {batch} samples of the batch",
            )


class SampleTimes(NamedTuple):
    """Clocks of a solve that record a gradient, rising like those of the lanes.

    Attributes:
        t0, t1: shape (batch,), float64, on the state's device.
        ts: shape (batch, times), or None where there are no output times.
    """

    t0: Tensor
    t1: Tensor
    ts: Tensor | None

    def detached(self) -> SampleTimes:
        """The same without a graph."""
        ts = None if self.ts is None else self.ts.detach()
        return SampleTimes(self.t0.detach(), self.t1.detach(), ts)


@dataclass(frozen=True, slots=True)
class SampleProblem:
    """An initial value problem for each sample.

    Attributes:
        field: the field.
        y0: initial states, shape (batch, width).
        t0, t1: the clocks at the ends, float64, shape (batch,), t0 <= t1.
        ts: output times by the clocks, shape (batch, times), rising, filled up with infinity; None
            without any.
        f0: the field at the start, if it is known, detached.
        times: t0, t1, ts with a graph, if one of them records a gradient.
    """

    field: SampleField
    y0: Tensor
    t0: Tensor
    t1: Tensor
    ts: Tensor | None = None
    f0: Tensor | None = None
    times: SampleTimes | None = None


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """How each sample's problem is solved.

    Attributes:
        solver: the method.
        controller: chooses the steps.
        rtol, atol: numbers, or matrices of shape (batch, width).
        norm: of scaled errors, a matrix of shape (lanes, width): one number a lane.
        dt0: first steps, shape (batch,), or None to choose them.
        save: what to keep.
        max_steps: limit on the attempted steps of each sample.
        on_step: called after each round of steps with the part of the way that all have behind
            them, from 0 to 1, or None.
        events: what to look for along the way of each sample.
    """

    solver: Solver
    controller: Controller
    rtol: float | Tensor
    atol: float | Tensor
    norm: Callable[[Tensor], Tensor]
    dt0: Tensor | None
    save: SaveAt
    max_steps: int
    on_step: Callable[[float], None] | None = None
    events: tuple[Event, ...] = ()
