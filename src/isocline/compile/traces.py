"""The formulas of one field and method, each as a graph: how the field is traced for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..state import Packing
from .formulas import Formula, Layout
from .signature import Signature, Slot, unreadable
from .splitting import Split, split
from .subjects import Subject
from .tracing import Traced, Untraceable, trace

__all__ = ["Traces"]


class Traces:
    """Traces formulas of one field for one method.

    Args:
        request: what is to be computed.

    Attributes:
        fsal: whether steps begin with a slope that is known.
        rows: of an interpolant, where output between steps is wanted.
        slots: what the tensors must be that the field uses; each formula has them as inputs.
    """

    may_be_fixed = True
    """Whether a trace may be good for one size of the batch alone."""

    slots: list[Slot]
    _layout: Signature

    def __init__(self, request: Any) -> None:
        self.request = request
        table = request.tableau
        # Asked of the table once: it looks through its fractions for the answer.
        self.fsal = table.fsal
        self.rows = table.stages if request.stages else 0

    # --- the layout of the inputs -----------------------------------------------------------

    def _layouts(self, subject: Subject) -> Iterator[bool]:
        """Whether the batch is free in a trace: what to try, one after the other."""
        many = (self._traced_as(subject.packing).batch or 0) >= 2
        if many:
            yield True
        if not many or self.may_be_fixed:
            yield False

    def _lay_out(self, subject: Subject, dynamic: bool) -> None:
        """Give every tensor of the field a slot."""
        self._layout = Signature.of(self._traced_as(subject.packing), dynamic)
        self.slots = [
            Slot(i, tensor.dtype, tensor.device, tensor.shape, tensor.stride(), batched)
            for i, (tensor, batched) in enumerate(
                zip(subject.tensors, self._batched(subject), strict=True)
            )
        ]

    def _batched(self, subject: Subject) -> list[bool]:
        """For each tensor of the field whether its leading axis is the batch."""
        return [
            self._layout.dynamic
            and tensor.dim() > 0
            and tensor.shape[0] == subject.packing.batch
            and id(tensor) not in subject.fixed
            for tensor in subject.tensors
        ]

    # --- formulas ---------------------------------------------------------------------------

    def _trace_step(self, subject: Subject, dynamic: bool) -> Traced:
        """A step; only the tensors that it uses keep their slots."""
        for tensor in subject.tensors:
            if type(tensor) not in (Tensor, torch.nn.Parameter):
                raise Untraceable(f"it holds a {type(tensor).__name__}: take a plain tensor")
            if what := unreadable(tensor, subject.packing.device):
                raise Untraceable(f"it holds a tensor {what}")
        self._lay_out(subject, dynamic)
        own = self._own_of_step(self._traced_as(subject.packing))
        with subject.anatomy.preserved():
            traced = self._trace(self._formula(subject).step, subject, own)
        # A field may hold much that it does not use, such as a whole model it is a part of.
        traced, used = traced.without_unused()
        self.slots = [slot for slot, keep in zip(self.slots, used, strict=True) if keep]
        return traced

    def _start(self, subject: Subject) -> Traced:
        formula = self._formula(subject)
        with subject.anatomy.preserved():
            return self._trace(formula.start, subject, [])

    def _pull(self, subject: Subject) -> Traced:
        formula = self._formula(subject)
        own = self._own_of_pull(self._traced_as(subject.packing))
        with subject.anatomy.preserved():
            return self._trace(formula.pull, subject, own, totals=True)

    def _pull_start(self, subject: Subject) -> Traced:
        formula = self._formula(subject)
        own = [_flat(subject.packing)]
        with subject.anatomy.preserved():
            return self._trace(formula.pull_start, subject, own, totals=True)

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

    def _demand_steady(self, subject: Subject, volatile: frozenset[str]) -> None:
        """Refuse a field that computes with what it changes itself: the next trace would differ."""
        formula = self._formula(subject)
        own = self._own_of_slope(self._traced_as(subject.packing))
        with subject.anatomy.preserved():
            texts = {self._trace(formula.slope, subject, own).text for _ in range(2)}
        if len(texts) > 1:
            named = ", ".join(sorted(volatile))
            raise Untraceable(f"it depends on what it changes itself ({named})")

    # --- tracing ----------------------------------------------------------------------------

    def _formula(self, subject: Subject) -> Any:
        return Formula(**self._of_formula(subject))

    def _of_formula(self, subject: Subject) -> dict[str, Any]:
        """What a `Formula` is made of."""
        request = self.request
        return {
            "tableau": request.tableau,
            "packing": subject.packing,
            "func": subject.func,
            "args": subject.args,
            "tensors": [subject.tensors[slot.place] for slot in self.slots],
            "layout": Layout(self._layout.dynamic, request.vectors, len(self.slots)),
            "average": request.average,
            "adaptive": request.adaptive,
            "stages": request.stages,
        }

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

    # Examples of the inputs of a formula: what each begins with, what is its own, what follows.

    def _traced_as(self, packing: Packing) -> Packing:
        """The layout of what stands for states of this one in a trace."""
        return packing

    def _leading(self, packing: Packing) -> list[Tensor]:
        return [torch.zeros(4, dtype=torch.float64, device=packing.device), _flat(packing)]

    def _own_of_step(self, packing: Packing) -> list[Tensor]:
        return [_flat(packing)] if self.fsal else []

    def _own_of_slope(self, packing: Packing) -> list[Tensor]:
        return []

    def _own_of_pull(self, packing: Packing) -> list[Tensor]:
        y = _flat(packing)
        return [y, *([y.repeat(self.rows)] if self.request.stages else [])]

    def _following(self, packing: Packing) -> list[Tensor]:
        y = _flat(packing)
        rows = [y.new_zeros(packing.batch or 1)] if self._layout.dynamic else []
        return [*rows, *([y, y] if self.request.vectors else [])]

    def _example(self, tensor: Tensor, packing: Packing) -> Tensor:
        """One of a tensor whose leading axis is the batch."""
        return tensor.contiguous()


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _zeros(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, memory_format=torch.contiguous_format)


def _flat(packing: Packing) -> Tensor:
    """An example of a packed state."""
    count = sum(math.prod(shape) for shape in packing.shapes)
    return torch.zeros(count, dtype=packing.dtype, device=packing.device)
