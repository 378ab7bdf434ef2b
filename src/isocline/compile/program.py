"""One field traced for one method: its compiled formulas, and what they may be called with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..solvers.tableau import Tableau, centred
from ..state import Packing, tree_rebuild
from .anatomy import Anatomy
from .building import Artifact, BuildError, built
from .cache import Cache
from .formulas import Formula, Layout
from .passes import Passes
from .tracing import Traced, Untraceable, trace

__all__ = ["Program", "Request", "Subject"]

_MAX_RUNNERS = 16
"""Artifacts of a program besides its step; each choice of what requires grad needs its own."""


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

    def matches(self, other: Request) -> bool:
        """Whether both ask for the same."""
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


class _Slot(NamedTuple):
    """What a tensor must be: AOTInductor's artifacts do not look at their inputs.

    Attributes:
        place: in the subject's tensors.
        dtype, shape, stride: what it was traced with.
        dynamic: whether its leading axis is the batch; it must then be contiguous.
    """

    place: int
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    dynamic: bool

    def admits(self, tensor: Tensor, batch: int | None) -> bool:
        if tensor.dtype is not self.dtype or _unreadable(tensor):
            return False
        if tensor.dim() != len(self.shape):
            return False
        if self.dynamic:
            return tensor.shape[0] == batch and tensor.shape[1:] == self.shape[1:]
        return tensor.shape == self.shape and tensor.stride() == self.stride


@dataclass(frozen=True, slots=True)
class _Layout:
    """The part of a packing that a trace depends on."""

    packing: Packing
    dynamic: bool

    def admits(self, packing: Packing) -> bool:
        mine = self.packing
        if packing.dtypes != mine.dtypes or packing.device != mine.device:
            return False
        if not self.dynamic:
            fits = packing.shapes == mine.shapes and packing.batch == mine.batch
        else:
            pairs = zip(packing.shapes, mine.shapes, strict=False)
            fits = (
                packing.batch is not None
                and packing.batch >= 2
                and len(packing.shapes) == len(mine.shapes)
                and all(one[1:] == other[1:] for one, other in pairs)
            )
        return (
            fits
            and (mine.template is None) == (packing.template is None)
            and (mine.template is None or mine.same_order(packing))
        )


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

    def __init__(
        self,
        subject: Subject,
        request: Request,
        cache: Cache,
        name: str,
        volatile: frozenset[str] = frozenset(),
    ) -> None:
        self.request, self._cache, self._name = request, cache, name
        self._runners: dict[str, Artifact] = {}
        self._failed: dict[str, str] = {}
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
        self._tied = _pattern(subject.tensors)
        packing = subject.packing
        batch = packing.batch if (packing.batch or 0) >= 2 else None
        with subject.anatomy.preserved():
            try:
                traced = self._trace_step(subject, batch)
            except Untraceable:
                if batch is None:
                    raise
                traced = self._trace_step(subject, None)  # good for this size of the batch alone
            if volatile:
                self._demand_steady(subject, volatile)
        self.step = built(traced, request.passes, cache, f"a step of {name}")

    @property
    def dynamic(self) -> bool:
        """Whether it serves every batch of two samples or more."""
        return self._layout.dynamic

    @property
    def tensors(self) -> list[int]:
        """Places of the tensors that are used, in the order of the inputs."""
        return [slot.place for slot in self.slots]

    def fits(self, request: Request, packing: Packing, tensors: Sequence[Tensor]) -> bool:
        """Whether this program may be run with these: the guard."""
        if not (self.request.matches(request) and self._layout.admits(packing)):
            return False
        if _pattern(tensors) != self._tied:
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
        y = _flat(subject.packing)
        own = [y, *([y.repeat(self.rows)] if self.request.stages else [])]
        with subject.anatomy.preserved():
            return self._trace(formula.pull, subject, own, totals=True)

    # --- tracing --------------------------------------------------------------------------

    def _trace_step(self, subject: Subject, batch: int | None) -> Traced:
        packing = subject.packing
        for tensor in subject.tensors:
            if type(tensor) not in (Tensor, torch.nn.Parameter):
                raise Untraceable(f"it holds a {type(tensor).__name__}: take a plain tensor")
            if what := _unreadable(tensor):
                raise Untraceable(f"it holds a tensor {what}")
        self._layout = _Layout(_without_tensors(packing), batch is not None)
        self.slots = [
            _Slot(i, tensor.dtype, tensor.shape, tensor.stride(), self._is_batched(tensor, subject))
            for i, tensor in enumerate(subject.tensors)
        ]
        own = [_flat(packing)] if self.fsal else []
        traced = self._trace(self._formula(subject).step, subject, own)
        # A field may hold much that it does not use, such as a whole model it is a part of.
        traced, used = traced.without_unused()
        self.slots = [slot for slot, keep in zip(self.slots, used, strict=True) if keep]
        return traced

    def _demand_steady(self, subject: Subject, volatile: frozenset[str]) -> None:
        """Refuse a field that computes with what it changes itself: the next trace would differ."""
        formula = self._formula(subject)
        texts = {self._trace(formula.slope, subject, []).text for _ in range(2)}
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

    def _formula(self, subject: Subject) -> Formula:
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

    def _trace(
        self, body: Any, subject: Subject, own: list[Tensor], *, totals: bool = False
    ) -> Traced:
        """Trace a formula over examples of its inputs."""
        packing, dynamic = subject.packing, self._layout.dynamic
        y = _flat(packing)
        examples = [torch.zeros(4, dtype=torch.float64), y, *own]
        moving = list(range(1, len(examples)))
        if dynamic:
            moving.append(len(examples))
            examples.append(torch.zeros(packing.batch or 1))
        if self.request.vectors:
            moving += [len(examples), len(examples) + 1]
            examples += [y, y]
        held = [subject.tensors[slot.place].detach() for slot in self.slots]
        moving += [len(examples) + i for i, slot in enumerate(self.slots) if slot.dynamic]
        first = len(examples)
        examples += [
            tensor.contiguous() if slot.dynamic else tensor
            for slot, tensor in zip(self.slots, held, strict=True)
        ]
        written = 0
        if totals:
            for slot, tensor in zip(self.slots, held, strict=True):
                if subject.tensors[slot.place].requires_grad:
                    moving += [len(examples)] if slot.dynamic else []
                    examples.append(torch.zeros_like(tensor, memory_format=torch.contiguous_format))
                    written += 1
        if dynamic:
            traced = trace(body, examples, moving, packing.batch, written)
        else:
            traced = trace(body, examples, written=written)
        return replace(traced, held=range(first, first + len(held)))

    def _built(self, traced: Traced, what: str) -> Artifact:
        return built(traced, self.request.passes, self._cache, f"{what} of {self._name}")


def _pattern(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Which of the tensors are one: for each the place where it is met first.

    A trace that found one tensor at two places has one input for both.
    """
    first: dict[int, int] = {}
    return tuple(first.setdefault(id(tensor), place) for place, tensor in enumerate(tensors))


def _unreadable(tensor: Tensor) -> str | None:
    """Why compiled code, which reads memory as it lies, would misread a tensor; None if not."""
    if tensor.layout is not torch.strided:
        return f"of layout {tensor.layout}: take a dense one"
    if tensor.device.type != "cpu":
        return f"on {tensor.device}: move it to the CPU"
    if tensor.is_neg() or tensor.is_conj():
        return "that is a lazy negative or conjugate: take `tensor.resolve_neg().resolve_conj()`"
    return None


def _without_tensors(packing: Packing) -> Packing:
    """The packing with nothing in the place of y0's leaves, which need not be kept."""
    if packing.template is None:
        return packing
    return replace(packing, template=tree_rebuild(packing.template, itertools.repeat(None)))


def _flat(packing: Packing) -> Tensor:
    """An example of a packed state."""
    count = sum(math.prod(shape) for shape in packing.shapes)
    return torch.zeros(count, dtype=packing.dtype)
