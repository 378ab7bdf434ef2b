"""What a solve gives back: times, states, status and statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .errors import (
    InputError,
    MaxStepsError,
    NonFiniteError,
    SolveError,
    StepUnderflowError,
    UnsolvedStepError,
)
from .events import Occurrence, SampleEvents
from .state import State

if TYPE_CHECKING:
    from .diagnosis import Explanation
    from .integrate.dense import DenseOutput
    from .integrate.lane_dense import SampleDense
    from .samples import PerSample

__all__ = ["ERRORS", "SampleCounts", "Solution", "Statistics", "Status"]


class Status(Enum):
    """How a solve ended. The value tells the reader what to try next."""

    SUCCESS = "the solve reached t1"
    EVENT = "an event ended the solve"
    MAX_STEPS = (
        "the step limit was reached before t1: raise `max_steps`, loosen `rtol` and `atol`, or, "
        "if the steps stay far smaller than the solution varies, the problem is stiff"
    )
    STEP_UNDERFLOW = (
        "the step became too small to advance the time: the tolerance is below what this dtype "
        "resolves, or the solution has a singularity; loosen `rtol` and `atol`, or use float64"
    )
    NON_FINITE = (
        "the state or the field became NaN or infinite however small the step: check the field "
        "at the time named, or end the solve before a blow-up"
    )
    UNSOLVED = (
        "the equations of an implicit step could not be solved: shorten the step; if that does "
        "not help, the field may jump or not be smooth near the time named"
    )


ERRORS: dict[Status, type[SolveError]] = {
    Status.MAX_STEPS: MaxStepsError,
    Status.STEP_UNDERFLOW: StepUnderflowError,
    Status.NON_FINITE: NonFiniteError,
    Status.UNSOLVED: UnsolvedStepError,
}
"""The error that a failed solve raises, by status."""


@dataclass(frozen=True, slots=True)
class SampleCounts:
    """Counts of each sample, where each stepped at its own pace.

    Attributes:
        steps_accepted, steps_rejected: shape (batch,), int64.
        nfe: evaluations of the field in which the sample took part, forward.
    """

    steps_accepted: Tensor
    steps_rejected: Tensor
    nfe: Tensor


@dataclass(slots=True)
class Statistics:
    """Counts of one solve. The backward fields are filled in when `backward()` runs.

    Times are wall-clock seconds. Evaluations made to replay a step in the backward pass count
    as backward evaluations.

    An implicit solver forms Jacobians from evaluations, which count as such too: `jacobians` says
    how many blocks of stages it did that for, `linear_solves` how many systems it solved with
    them, both in the forward pass.

    `steps_recomputed` counts the accepted steps that backward passes took again without a graph, to
    find states that `Checkpointed` had not kept; a step that is merely taken again under autograd,
    once, is none of them. Several times `steps_accepted` means that there are too few slots.

    Under per-sample stepping `samples` has the counts of each sample, of which the numbers of steps
    are the sums, while `nfe_forward` counts calls of the field, whichever number of samples they
    are about. `evaluated_samples` is that number summed over the calls of the forward pass: with
    joint stepping `nfe_forward` times the batch.
    """

    nfe_forward: int = 0
    nfe_backward: int = 0
    steps_accepted: int = 0
    steps_rejected: int = 0
    jacobians: int = 0
    linear_solves: int = 0
    wall_time: float = 0.0
    wall_time_backward: float = 0.0
    evaluated_samples: int = 0
    samples: SampleCounts | None = None
    steps_recomputed: int = 0

    @property
    def nfe(self) -> int:
        """Evaluations of the field, forward and backward."""
        return self.nfe_forward + self.nfe_backward


@dataclass(frozen=True, slots=True)
class Solution:
    """The answer of `solve`.

    Attributes:
        ts: times of the saved states, shape (T,), float64 on the state's device.
        ys: saved states, structured like y0; every leaf has a leading axis of length T. With
            `SaveAt(fn=...)`, what `fn` returned, stacked likewise. None if nothing was saved.
        status: how the solve ended; anything but `Status.SUCCESS` and `Status.EVENT` raises
            unless `throw=False`.
        stats: evaluations, steps and time.
        t_end: the time reached: t1, or where the solve stopped.
        events: the events that took place, in order of time.
        failed_samples: indices of the samples at fault, where the failure can be laid to some.
        dense: the continuous solution, with `SaveAt(dense=True)`; call the solution itself.
        statuses: with per-sample stepping, how each sample ended; `status` is that of the first
            that failed. Then `ts` has the shape (T, batch), with the times of each sample.
        t_ends: the time that each sample reached, shape (batch,).
        lengths: how many saved states each sample has, shape (batch,). Beyond them `ys` is 0, and
            `ts` stands at the last one's time.
        sample_events: the events of all samples, with per-sample stepping; None without any.
        again: takes the solve again under observation, for `explain`.
    """

    ts: Tensor
    ys: State
    status: Status
    stats: Statistics
    t_end: float
    failed_samples: tuple[int, ...] = ()
    events: tuple[Occurrence, ...] = ()
    dense: DenseOutput | SampleDense | None = field(default=None, repr=False)
    statuses: tuple[Status, ...] = ()
    t_ends: Tensor | None = None
    lengths: Tensor | None = None
    sample_events: SampleEvents | None = None
    again: Callable[[], Explanation] | None = field(default=None, repr=False, compare=False)

    def __call__(self, t: Tensor | float | PerSample) -> State:
        """The state at time(s) `t` inside the span solved, from the method's own interpolant.

        A scalar `t` gives a state like y0; a vector of shape (m,) adds a leading axis of length
        m. Differentiable in the solve's inputs and in `t`.

        With per-sample stepping these are times of all samples. `PerSample` of shape (batch,) gives
        each sample at its own time, one of shape (batch, m) at its own m times.

        Raises:
            InputError: if the solve was not made with `SaveAt(dense=True)`, or `t` lies outside
                the span that was solved.
        """
        if self.dense is None:
            raise InputError(
                "save",
                "SaveAt without dense=True",
                "dense output for a solution that is called",
                "Pass `save=SaveAt(dense=True)` to `solve`.",
            )
        return self.dense(t)

    def explain(self) -> Explanation:
        """Why the solve went as it did: print the answer, or read its attributes.

        Which components dominated the error, where steps were rejected, whether the problem looks
        stiff and what to use then, evaluations and memory. The solve is taken again for it,
        without a graph and under observation, so a solve that is never explained pays nothing.

        Raises:
            InputError: for a solution that was pickled, which does not keep its field.
        """
        if self.again is None:
            raise InputError(
                "explain",
                "a solution that was pickled, of a black box, a transform, or per-sample stepping",
                "one whose steps can be taken again",
            )
        return self.again()

    def __getstate__(self) -> list[Any]:
        """All fields but the way to take the solve again, which holds the user's field."""
        return [None if f.name == "again" else getattr(self, f.name) for f in fields(self)]

    def __setstate__(self, state: list[Any]) -> None:
        for f, value in zip(fields(self), state, strict=True):
            object.__setattr__(self, f.name, value)
