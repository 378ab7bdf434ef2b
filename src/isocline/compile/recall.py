"""Solves that come again, as in training: what was checked and prepared is found at once.

A solve over the same field object with equal settings and a state of the same layout needs none of
its arguments checked anew, and no plan: only what the field holds is compared, as before every
solve, and the layout of the tensors that the compiled code reads. What is remembered does not hold
the field, and goes with it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..adjoints import Adjoint
from ..problem import Autocast, Plan, SaveAt
from ..state import Packing
from ..transforms import active
from .anatomy import Anatomy
from .kinds import anatomy_of
from .solver import CompiledSolver

__all__ = ["Known", "keep", "question", "recalled"]

_MAX_QUESTIONS = 16
"""Settings that are remembered for one field."""


class Known(NamedTuple):
    """What was prepared for a solve.

    Attributes:
        packing: layout of the state.
        plan, fast: how it is solved, uncompiled and compiled.
        adjoint: how it is differentiated.
        anatomy: what the field was found to hold.
        layout: of the tensors that it holds.
    """

    packing: Packing
    plan: Plan
    fast: Plan
    adjoint: Adjoint
    anatomy: Anatomy
    layout: list[tuple[Any, ...]]

    @property
    def holds(self) -> bool:
        """Whether the field still is what was compiled."""
        tensors = self.anatomy.held()
        return tensors is not None and _layout(tensors) == self.layout


_KNOWN: dict[int, tuple[weakref.ref[Any], dict[Hashable, Known]]] = {}
"""By id of the field, and by what was asked."""


def question(
    y0: Any,
    t0: Any,
    t1: Any,
    save: SaveAt | None,
    numbers: tuple[Any, ...],
    settings: tuple[Hashable, ...],
) -> Hashable | None:
    """What a solve asks for besides its field; None where that has to be looked at each time.

    Args:
        y0, t0, t1, save: as the user gave them.
        numbers: settings that may be tensors, whose values may change.
        settings: all else that was given.
    """
    if any(type(number) not in (float, int, type(None)) for number in numbers):
        return None
    if type(y0) not in (Tensor, torch.nn.Parameter) or y0.device.type != "cpu" or active():
        return None
    if type(t0) not in (float, int) or type(t1) not in (float, int):
        return None
    if Autocast.ambient(y0.device) is not None:
        return None
    times: tuple[Any, ...] = ()
    if save is not None:
        if type(save) is not SaveAt or save.fn is not None or save.lengths is not None:
            return None
        ts = save.ts
        if isinstance(ts, Tensor):
            if ts.requires_grad or ts.ndim != 1:
                return None
            ts = ts.tolist()
        times = (t0, t1, save.t0, save.t1, save.steps, save.dense, ts and tuple(ts))
    asked = (
        (y0.shape, y0.dtype, y0.requires_grad, torch.is_grad_enabled()),
        (t0 < t1, *times),
        numbers,
        settings,
    )
    try:
        hash(asked)
    except TypeError:  # a controller of the user's own, say
        return None
    return asked


def recalled(field: Callable[..., Any], asked: Hashable) -> Known | None:
    """What is known of a solve over `field`, if all of it still holds."""
    reference, answers = _KNOWN.get(id(field), (None, None))
    if reference is None or answers is None or reference() is not field:
        return None
    known = answers.get(asked)
    return known if known is not None and known.holds else None


def keep(
    field: Callable[..., Any],
    asked: Hashable,
    packing: Packing,
    plan: Plan,
    fast: Plan,
    adjoint: Adjoint,
) -> None:
    """Remember a solve for as long as the field lives."""
    anatomy = anatomy_of(field)
    if anatomy is None or not isinstance(fast.solver, CompiledSolver):
        return
    key = id(field)
    reference, answers = _KNOWN.get(key, (None, {}))
    if reference is None or reference() is not field:
        reference, answers = weakref.ref(field, lambda _: _KNOWN.pop(key, None)), {}
        _KNOWN[key] = (reference, answers)
    answers.pop(asked, None)
    while len(answers) >= _MAX_QUESTIONS:
        answers.pop(next(iter(answers)))  # the one asked first
    layout = _layout(anatomy.read() or ())
    answers[asked] = Known(packing, plan, fast, adjoint, anatomy, layout)


def _layout(tensors: Iterable[Tensor]) -> list[tuple[Any, ...]]:
    """Which tensors the field holds, and how they lie in memory; artifacts do not look."""
    return [
        (id(x), x.shape, x.stride(), x.dtype, x.requires_grad, x.is_neg(), x.is_cpu)
        for x in tensors
    ]
