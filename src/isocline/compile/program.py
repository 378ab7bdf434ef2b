"""One field traced for one method: its compiled formulas, and what they may be called with."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..solvers.tableau import Tableau, centred
from ..state import Packing
from .anatomy import Anatomy
from .building import Artifact, BuildError, built
from .cache import Cache
from .formulas import Formula, Layout
from .passes import Passes
from .signature import Signature, Slot, pattern, unreadable
from .splitting import Split, largest, split
from .tracing import Traced, Untraceable, trace

__all__ = ["KeptSteps", "Program", "Request", "Subject"]

_MAX_RUNNERS = 16
"""Artifacts of a program besides its step; each choice of what requires grad needs its own."""

WORTH_KEEPING = 8 * 2**10
"""Bytes of a step's largest tensor from which it pays to keep what the pull-back needs.

Below, to hand the tensors over costs what it costs to compute them again. Training, milliseconds,
kept and computed again: 2-64-64-2 at batch 1 2.6 and 2.4, 2-50-2 at batch 20 5.6 and 5.6, 2-64-64-2
at batch 128 17 and 19, a flow with its exact trace at batch 512 41 and 48, 64-256-256-64 at batch
512 285 and 357, the convolutional field of the ODE-Net 342 and 508.
"""


class Request(NamedTuple):
    """What is asked of a program besides the field and its tensors.

    Attributes:
        tableau: the method.
        average: whether the norm is "rms".
        adaptive: whether an error ratio is wanted.
        vectors: whether the tolerances are packed vectors.
        stages: whether slopes are wanted.
        passes: rewritings of the graph.
    """

    tableau: Tableau
    average: bool
    adaptive: bool
    vectors: bool
    stages: bool
    passes: Passes

    def matches(self, other: Any) -> bool:
        """Whether both ask for the same."""
        if not isinstance(other, Request):
            return False
        return self.tableau is other.tableau and self[1:] == other[1:]


class Subject(NamedTuple):
    """A field at one solve.

    Attributes:
        func, args: the user's.
        packing: layout of the state.
        tensors: what the field may use.
        fixed: ids of those whose leading axis is no batch: parameters and buffers.
        anatomy: of `func`.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    packing: Packing
    tensors: Sequence[Tensor]
    fixed: set[int]
    anatomy: Anatomy


class KeptSteps(NamedTuple):
    """Steps that keep what their pull-back needs of them.

    Attributes:
        step: as a step that keeps nothing, with what is kept after its results.
        pull: from the cotangents of its end and its slopes to those of its start and the slope
            there; what was kept comes before the tensors of the field.
        start: from the cotangent of the slope at the start of a solve to that of the state there;
            None where steps do not begin with a slope.
        kept: how many tensors a step keeps.
        steps: how many fit the budget.
    """

    step: Artifact
    pull: Artifact
    start: Artifact | None
    kept: int
    steps: int


class Program:
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

    may_be_fixed = True
    """Whether a trace may be good for one size of the batch alone."""

    def __init__(
        self,
        subject: Subject,
        request: Any,
        cache: Cache,
        name: str,
        volatile: frozenset[str] = frozenset(),
    ) -> None:
        self.request, self._cache, self._name = request, cache, name
        self._runners: dict[str, Artifact] = {}
        self._failed: dict[str, str] = {}
        self._splits: dict[str, Split | None] = {}
        self._keeps = False  # whether steps that keep something have paid for a batch,
        self._small: set[int | None] = set()  # and batches for which they would not
        rows = [[float(x) for x in centred(row)] for row in request.tableau.interpolant]
        # Coefficients of the interpolant about `CENTRE`, (rows, degree).
        self.weights = torch.tensor(rows, dtype=torch.float64)
        table = request.tableau
        # Asked of the table once: it looks through its fractions for the answer.
        self.fsal = table.fsal
        self.evaluations_per_step = table.stages - int(self.fsal)
        # Rows of an interpolant, where output between steps is wanted.
        self.rows = table.stages if request.stages else 0
        self.evaluations_per_pull = self.rows or table.needed
        self._tied = pattern(subject.tensors)
        packing = self._traced_as(subject.packing)
        batch = packing.batch if (packing.batch or 0) >= 2 else None
        with subject.anatomy.preserved():
            try:
                traced = self._trace_step(subject, batch)
            except Untraceable:
                if batch is None or not self.may_be_fixed:
                    raise
                traced = self._trace_step(subject, None)  # good for this size of the batch alone
            if volatile:
                self._demand_steady(subject, volatile)
        self._traced_step = traced

    @functools.cached_property
    def step(self) -> Artifact:
        """A step that keeps nothing."""
        return self._built(self._traced_step, "a step")

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
        return self._once("start", "the start", lambda: self._start(subject))

    def pull(self, subject: Subject) -> Artifact:
        """The pull-back of a step, for the tensors that require grad in this subject."""
        flags = [subject.tensors[slot.place].requires_grad for slot in self.slots]
        return self._once(f"pull {flags}", "the gradient", lambda: self._pull(subject))

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
        if key not in self._splits:
            self._splits[key] = self._split(subject)
        halves = self._splits[key]
        if halves is None:
            return None
        count = budget // max(1, halves.bytes_kept(batch))
        if count == 0:
            return None
        start = None
        if self.fsal:
            start = self._once(
                f"start of {key}", "the gradient of the start", lambda: self._pull_start(subject)
            )
        return KeptSteps(
            self._once(f"forward {key}", "a step", lambda: halves.forward),
            self._once(f"backward {key}", "the gradient", lambda: halves.backward),
            start,
            len(halves.kept),
            count,
        )

    def _worth_keeping(self, batch: int | None) -> bool:
        """Whether it pays for a batch, or has paid for one before: then it is compiled already."""
        if not self._keeps and batch not in self._small:
            self._keeps = largest(self._traced_step, batch) >= WORTH_KEEPING
            if not self._keeps:
                self._small.add(batch)
        return self._keeps

    def _split(self, subject: Subject) -> Split | None:
        formula = self._formula(subject)
        y, known, links = _flat(subject.packing), int(self.fsal), formula.links
        own = [y] * (1 + known) + ([y.repeat(links)] if links else [])
        with subject.anatomy.preserved():
            traced = self._trace(formula.kept, subject, own, totals=True)
        count = 2 + len(own)
        after = [*range(2 + known, count), *range(traced.held.stop, len(traced.inputs))]
        results = 2 + known + max(0, self.rows - 2 * known)
        return split(traced, results, count, range(2, 2 + known), after)

    def _pull_start(self, subject: Subject) -> Traced:
        formula = self._formula(subject)
        own = [_flat(subject.packing)]
        with subject.anatomy.preserved():
            return self._trace(formula.pull_start, subject, own, totals=True)

    def _once(self, key: str, what: str, make: Callable[[], Traced]) -> Artifact:
        """What was made for `key`; why it cannot be made is remembered too."""
        if key in self._failed:
            raise Untraceable(self._failed[key])
        if key not in self._runners:
            if len(self._runners) >= _MAX_RUNNERS:
                raise Untraceable("other tensors of it require grad at every solve")
            try:
                self._runners[key] = self._built(make(), what)
            except (Untraceable, BuildError) as reason:
                self._failed[key] = str(reason)
                raise
        return self._runners[key]

    def _start(self, subject: Subject) -> Traced:
        formula = self._formula(subject)
        with subject.anatomy.preserved():
            return self._trace(formula.start, subject, [])

    def _pull(self, subject: Subject) -> Traced:
        formula = self._formula(subject)
        own = self._own_of_pull(self._traced_as(subject.packing))
        with subject.anatomy.preserved():
            return self._trace(formula.pull, subject, own, totals=True)

    # --- tracing --------------------------------------------------------------------------

    def _trace_step(self, subject: Subject, batch: int | None) -> Traced:
        packing = self._traced_as(subject.packing)
        for tensor in subject.tensors:
            if type(tensor) not in (Tensor, torch.nn.Parameter):
                raise Untraceable(f"it holds a {type(tensor).__name__}: take a plain tensor")
            if what := unreadable(tensor):
                raise Untraceable(f"it holds a tensor {what}")
        self._layout = Signature.of(packing, batch is not None)
        self.slots = [
            Slot(i, tensor.dtype, tensor.shape, tensor.stride(), self._is_batched(tensor, subject))
            for i, tensor in enumerate(subject.tensors)
        ]
        traced = self._trace(self._formula(subject).step, subject, self._own_of_step(packing))
        # A field may hold much that it does not use, such as a whole model it is a part of.
        traced, used = traced.without_unused()
        self.slots = [slot for slot, keep in zip(self.slots, used, strict=True) if keep]
        return traced

    def _demand_steady(self, subject: Subject, volatile: frozenset[str]) -> None:
        """Refuse a field that computes with what it changes itself: the next trace would differ."""
        formula = self._formula(subject)
        own = self._own_of_slope(self._traced_as(subject.packing))
        texts = {self._trace(formula.slope, subject, own).text for _ in range(2)}
        if len(texts) > 1:
            named = ", ".join(sorted(volatile))
            raise Untraceable(f"it depends on what it changes itself ({named})")

    def _is_batched(self, tensor: Tensor, subject: Subject) -> bool:
        return (
            self._layout.dynamic
            and tensor.dim() > 0
            and tensor.shape[0] == subject.packing.batch
            and id(tensor) not in subject.fixed
        )

    def _formula(self, subject: Subject) -> Any:
        request = self.request
        return Formula(
            tableau=request.tableau,
            packing=subject.packing,
            func=subject.func,
            args=subject.args,
            tensors=[subject.tensors[slot.place] for slot in self.slots],
            layout=Layout(self._layout.dynamic, request.vectors, len(self.slots)),
            average=request.average,
            adaptive=request.adaptive,
            stages=request.stages,
        )

    # Examples of the inputs of a formula: what each begins with, what is its own, what follows.

    def _traced_as(self, packing: Packing) -> Packing:
        """The layout of what stands for states of this one in a trace."""
        return packing

    def _leading(self, packing: Packing) -> list[Tensor]:
        return [torch.zeros(4, dtype=torch.float64), _flat(packing)]

    def _own_of_step(self, packing: Packing) -> list[Tensor]:
        return [_flat(packing)] if self.fsal else []

    def _own_of_slope(self, packing: Packing) -> list[Tensor]:
        return []

    def _own_of_pull(self, packing: Packing) -> list[Tensor]:
        y = _flat(packing)
        return [y, *([y.repeat(self.rows)] if self.request.stages else [])]

    def _following(self, packing: Packing) -> list[Tensor]:
        y = _flat(packing)
        rows = [torch.zeros(packing.batch or 1)] if self._layout.dynamic else []
        return [*rows, *([y, y] if self.request.vectors else [])]

    def _example(self, tensor: Tensor, packing: Packing) -> Tensor:
        """One of a tensor whose leading axis is the batch."""
        return tensor.contiguous()

    def _trace(
        self, body: Any, subject: Subject, own: list[Tensor], *, totals: bool = False
    ) -> Traced:
        """Trace a formula over examples of its inputs; all but the first may grow with a batch."""
        packing = self._traced_as(subject.packing)
        examples = [*self._leading(packing), *own, *self._following(packing)]
        moving, first = list(range(1, len(examples))), len(examples)
        held = []
        for slot in self.slots:
            tensor = subject.tensors[slot.place].detach()
            held.append(self._example(tensor, packing) if slot.dynamic else tensor)
        added = []
        if totals:
            added = [i for i, s in enumerate(self.slots) if subject.tensors[s.place].requires_grad]
        for places, make in ((range(len(held)), _itself), (added, _zeros)):
            moving += [len(examples) + n for n, i in enumerate(places) if self.slots[i].dynamic]
            examples += [make(held[i]) for i in places]
        if self._layout.dynamic:
            traced = trace(body, examples, moving, packing.batch, len(added))
        else:
            traced = trace(body, examples, written=len(added))
        return replace(traced, held=range(first, first + len(held)))

    def _built(self, traced: Traced, what: str) -> Artifact:
        return built(traced, self.request.passes, self._cache, f"{what} of {self._name}")


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _zeros(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, memory_format=torch.contiguous_format)


def _flat(packing: Packing) -> Tensor:
    """An example of a packed state."""
    count = sum(math.prod(shape) for shape in packing.shapes)
    return torch.zeros(count, dtype=packing.dtype)
