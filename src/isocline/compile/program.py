"""One field traced for one method: its compiled formulas, and what they may be called with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..solvers.tableau import centred
from ..state import Packing
from .building import Artifact, BuildError, built
from .cache import Cache
from .graphs.artifact import captured
from .graphs.capture import graphed
from .index import Halves, Index, Outline, Shelf
from .signature import pattern
from .sizes import Size, sized
from .splitting import Split, sizes_made
from .subjects import KeptSteps, Subject
from .traces import Traces
from .tracing import Traced, Untraceable

__all__ = ["Program"]

_MAX_RUNNERS = 16
"""Artifacts of a program besides its step; each choice of what requires grad needs its own."""

WORTH_KEEPING = 8 * 2**10
"""Bytes of a step's largest tensor from which it pays to keep what the pull-back needs.

Below, to hand the tensors over costs what it costs to compute them again. Training, milliseconds,
kept and computed again: 2-64-64-2 at batch 1 2.6 and 2.4, 2-50-2 at batch 20 5.6 and 5.6, 2-64-64-2
at batch 128 17 and 19, a flow with its exact trace at batch 512 41 and 48, 64-256-256-64 at batch
512 285 and 357, the convolutional field of the ODE-Net 342 and 508.
"""


class Program(Traces):
    """Compiled formulas of one field and method.

    Args:
        subject: the field, as an example of all that the program will serve.
        request: what it is to compute.
        cache: where artifacts are.
        name: what to call the field in notes.
        volatile: what the field changes by itself, which it must not depend on.

    Raises:
        Untraceable: naming the reason.
        BuildError: the compiler failed.
        CacheError: the cache cannot be trusted.
    """

    def __init__(
        self,
        subject: Subject,
        request: Any,
        cache: Cache,
        name: str,
        volatile: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(request)
        self._cache, self._name = cache, name
        self._index = Index(cache, type(self).__name__, request)
        self._runners: dict[str, Artifact] = {}
        self._failed: dict[str, str] = {}
        self._halves: dict[str, Halves] = {}
        self._splits: dict[str, Split | None] = {}
        self._keeps = False  # whether steps that keep something have paid for a batch,
        self._small: set[int | None] = set()  # and batches for which they would not
        rows = [[float(x) for x in centred(row)] for row in request.tableau.interpolant]
        # Coefficients of the interpolant about `CENTRE`, (rows, degree).
        self.weights = torch.tensor(rows, dtype=torch.float64)
        table = request.tableau
        self.evaluations_per_step = table.stages - int(self.fsal)
        self.evaluations_per_pull = self.rows or table.needed
        self._tied = pattern(subject.tensors)
        self._step: Artifact | None = None
        self._traced_step: Traced | None = None
        self._outline = self._recalled(subject) or self._outlined(subject, volatile)

    @property
    def step(self) -> Artifact:
        """A step that keeps nothing, where it was prepared."""
        assert self._step is not None
        return self._step

    @property
    def prepared(self) -> bool:
        """Whether that is there."""
        return self._step is not None

    def prepare(self, subject: Subject) -> None:
        """Have a step that keeps nothing ready."""
        if self._step is None:

            def make() -> Traced:
                return self._traced_step or self._trace_step(subject, self.dynamic)

            self._step = self._made(subject, "step", "a step", make)

    @property
    def dynamic(self) -> bool:
        """Whether it serves every batch of two samples or more."""
        return self._layout.dynamic

    @property
    def tensors(self) -> list[int]:
        """Places of the tensors that are used, in the order of the inputs."""
        return [slot.place for slot in self.slots]

    def fits(self, request: Any, packing: Packing, tensors: Sequence[Tensor]) -> bool:
        """Whether this program may be run with these: the guard."""
        if not (self.request.matches(request) and self._layout.admits(self._traced_as(packing))):
            return False
        if pattern(tensors) != self._tied:
            return False
        batch = packing.batch
        return all(slot.admits(tensors[slot.place], batch) for slot in self.slots)

    def start(self, subject: Subject) -> Artifact:
        """The start of a solve: slope and first step."""
        return self._once(subject, "start", "the start", lambda: self._start(subject))

    def pull(self, subject: Subject) -> Artifact:
        """The pull-back of a step, for the tensors that require grad in this subject."""
        flags = [subject.tensors[slot.place].requires_grad for slot in self.slots]
        return self._once(subject, f"pull {flags}", "the gradient", lambda: self._pull(subject))

    def kept(self, subject: Subject, budget: int) -> KeptSteps | None:
        """Steps that keep what their pull-back needs; None where that does not pay, or not fit.

        Args:
            subject: the field.
            budget: in bytes.
        """
        batch = subject.packing.batch
        if budget == 0 or not self._worth_keeping(batch):
            return None
        flags = [subject.tensors[slot.place].requires_grad for slot in self.slots]
        key = f"kept {flags}"
        sizes = self._sizes(subject, key)
        if sizes is None:
            return None
        count = budget // max(1, sum(sized(size, batch) for size in sizes))
        if count == 0:
            return None

        def once(part: str, what: str, make: Callable[[], Traced]) -> Artifact:
            return self._once(subject, f"{part} {key}", what, make)

        start = None
        if self.fsal:
            what = "the gradient of the start"
            start = once("start of", what, lambda: self._pull_start(subject))
        return KeptSteps(
            once("forward", "a step", lambda: self._half(subject, key).forward),
            once("backward", "the gradient", lambda: self._half(subject, key).backward),
            start,
            len(sizes),
            count,
        )

    def _worth_keeping(self, batch: int | None) -> bool:
        """Whether it pays for a batch, or has paid for one before: then it is compiled already."""
        if not self._keeps and batch not in self._small:
            self._keeps = self._outline.largest(batch) >= WORTH_KEEPING
            if not self._keeps:
                self._small.add(batch)
        return self._keeps

    def _sizes(self, subject: Subject, key: str) -> tuple[Size, ...] | None:
        """Sizes of what a step keeps; None where it cannot be split."""
        if key not in self._halves:
            shelf = self._shelf(subject)
            found = shelf.halves(key)
            if found is None:
                whole = self._splits[key] = self._split(subject)
                found = Halves(None if whole is None else whole.sizes)
                shelf.keep(key, found.plain)
            self._halves[key] = found
        return self._halves[key].sizes

    def _half(self, subject: Subject, key: str) -> Split:
        """The graphs of a split."""
        found = self._splits.get(key) or self._split(subject)
        assert found is not None
        self._splits[key] = found
        return found

    def _once(self, subject: Subject, key: str, what: str, make: Callable[[], Traced]) -> Artifact:
        """What was made for `key`; why it cannot be made is remembered too."""
        if key in self._failed:
            raise Untraceable(self._failed[key])
        if key not in self._runners:
            if len(self._runners) >= _MAX_RUNNERS:
                raise Untraceable("other tensors of it require grad at every solve")
            try:
                self._runners[key] = self._made(subject, key, what, make)
            except (Untraceable, BuildError) as reason:
                self._failed[key] = str(reason)
                raise
        return self._runners[key]

    # --- what other processes found ---------------------------------------------------------

    def _recalled(self, subject: Subject) -> Outline | None:
        """What a trace of the step told."""
        for dynamic in self._layouts(subject):
            self._lay_out(subject, dynamic)
            found = self._shelf(subject).outline(len(self.slots))
            if found is not None:
                self.slots = [self.slots[place] for place in found.used]
                return found
        return None

    def _outlined(self, subject: Subject, volatile: frozenset[str]) -> Outline:
        """What a trace of the step tells."""
        *others, last = self._layouts(subject)
        traced = None
        for dynamic in others:
            with contextlib.suppress(Untraceable):
                traced = self._trace_step(subject, dynamic)
        if traced is None:  # good for this size of the batch alone
            traced = self._trace_step(subject, last)
        if volatile:
            self._demand_steady(subject, volatile)
        self._traced_step = traced
        outline = Outline(tuple(self.tensors), sizes_made(traced))
        self._shelf(subject).keep("outline", outline.plain)
        return outline

    def _shelf(self, subject: Subject) -> Shelf:
        """What is known of the field from earlier processes."""
        return self._index.shelf(subject, self._layout, self._batched(subject))

    def _made(self, subject: Subject, key: str, what: str, make: Callable[[], Traced]) -> Artifact:
        """A formula compiled, earlier or now; for a GPU it is recorded in this process."""
        if graphed(self._layout.packing.device):
            return captured(make())
        shelf = self._shelf(subject)
        found = shelf.artifact(key)
        if found is None:
            found = built(make(), self.request.passes, self._cache, f"{what} of {self._name}")
            if found.record is not None:
                shelf.keep(key, found.record)
        return found
