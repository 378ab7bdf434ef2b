"""Which fields were compiled before, and as what: those of one structure share their programs.

A field is looked through at every solve. What it is made of, code and plain values, is its kind;
tensors are inputs, so that fields which differ in these alone are of one kind.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .anatomy import Anatomy
from .building import BuildError
from .cache import Cache
from .program import Program
from .subjects import Asked, Subject
from .tracing import Untraceable
from .walk import dissect

__all__ = ["Unfit", "anatomy_of", "dissected", "find", "tensors_of"]

_MAX_KINDS = 8
"""Kinds of one code that are compiled; a field that comes in more of them changes all the time."""


class Unfit(Exception):  # noqa: N818 (a reason, which becomes a warning)
    """Why a solve is not compiled."""


def dissected(thing: Any, path: str) -> Anatomy:
    """Everything that `thing` holds, if all of it can be looked at."""
    try:
        found = dissect(thing, path)
    except RecursionError:
        raise Unfit(f"what {path} holds is nested too deeply: pass tensors by `args=`") from None
    if found.too_large:
        raise Unfit(f"{path} holds too many things to look through: pass tensors by `args=`")
    if found.opaque:
        where, kind = found.opaque[0]
        raise Unfit(
            f"what {where} holds, a {kind}, cannot be found out, nor whether it changes: pass "
            "tensors by `args=`, and numbers in lists, dicts or plain objects"
        )
    return found


def tensors_of(*anatomies: Anatomy | None) -> list[Tensor]:
    """The tensors that were found, as they are now."""
    found: list[Tensor] = []
    for anatomy in anatomies:
        if anatomy is not None:
            found += anatomy.read() or ()
    return found


@dataclass(slots=True)
class _Kind:
    """Fields of one structure: what they have in common, and the programs made for them.

    Attributes:
        volatile: paths of what the field changes by itself.
        key: of the structure, that left out.
        alive: objects whose ids the key names.
        shapes: of the tensors that the first of them held.
        programs: with the structure of the arguments that each was made for.
        failures: what could not be made, and why: it is not tried again.
    """

    volatile: frozenset[str]
    key: Any
    alive: list[Any]
    shapes: list[torch.Size]
    programs: list[tuple[Any, Program]] = field(default_factory=list)
    failures: deque[_Failure] = field(default_factory=lambda: deque(maxlen=64))

    def program(
        self,
        request: Asked,
        subject: Subject,
        of_args: Anatomy | None,
        make: type[Program] = Program,
    ) -> Program:
        """One that fits, made if there is none."""
        key = None if of_args is None else of_args.key(frozenset())
        for known, program in self.programs:
            if known == key and program.fits(request, subject.packing, subject.tensors):
                return program
        layout = _layout(subject)
        for failure in self.failures:
            if failure.layout == layout and failure.key == key and request.matches(failure.request):
                raise Unfit(failure.reason)
        self._demand_few(request, key)
        try:
            program = make(subject, request, Cache(), _name(subject.func), self.volatile)
        except (Untraceable, BuildError) as reason:
            self.failures.append(_Failure(key, request, layout, str(reason)))
            raise
        self.programs.append((key, program))
        return program

    def _demand_few(self, request: Asked, key: Any) -> None:
        """Refuse to compile without end."""
        keys: list[Any] = []
        for known, _ in self.programs:
            if known != key and known not in keys:
                keys.append(known)
        if len(keys) >= _MAX_KINDS:
            raise Unfit("its arguments change from solve to solve: pass numbers as tensors")
        alike = [known == key and made.request.matches(request) for known, made in self.programs]
        if sum(alike) >= _MAX_KINDS:
            raise Unfit(
                f"its state and tensors come in more than {_MAX_KINDS} layouts, and each needs a "
                "compilation of its own: let nothing vary but the first axis of y0, the batch"
            )


class _Failure(NamedTuple):
    """What could not be compiled.

    Attributes:
        key: structure of the arguments.
        request: what was asked for.
        layout: of the state and the tensors.
        reason: as a warning says it.
    """

    key: Any
    request: Asked
    layout: Any
    reason: str


def _layout(subject: Subject) -> Any:
    """What a failure may depend on besides the code; how many samples a batch has is not in it."""
    packing = subject.packing
    many = (packing.batch or 0) >= 2
    shapes = [shape[1:] if many else shape for shape in packing.shapes]
    tensors = [
        (type(x), x.dtype, x.layout, x.device, x.dim(), x.is_neg(), x.is_conj())
        for x in subject.tensors
    ]
    return packing.dtypes, packing.device, many, shapes, tensors


class _Seen(NamedTuple):
    """A field that was met before.

    Attributes:
        reference: to the very object, weak.
        anatomy: what it was found to hold.
        kind: which it belongs to.
        changes: how often it became another kind.
    """

    reference: weakref.ref[Any]
    anatomy: Anatomy
    kind: _Kind
    changes: int


_MAX_FIELDS = 256
"""Fields that are known at a time: what is known of one may keep parts of it alive."""

_FIELDS: dict[int, _Seen] = {}
"""Fields met before, by id."""

_KINDS: dict[Any, list[_Kind]] = {}
"""Kinds by code or class."""


def find(func: Callable[..., Any], probe: Callable[[], Any]) -> tuple[_Kind, Anatomy]:
    """The kind that a field belongs to; `probe` evaluates it once."""
    seen = _FIELDS.get(id(func))
    if seen is not None and seen.reference() is not func:
        seen = None
    if seen is not None and seen.anatomy.held() is not None:
        return seen.kind, seen.anatomy
    anatomy = dissected(func, "field")
    kinds = _KINDS.setdefault(anatomy.root, [])
    kind = next((kind for kind in kinds if anatomy.key(kind.volatile) == kind.key), None)
    changes = 0 if seen is None else seen.changes + (kind is not seen.kind)
    if kind is None:
        if _turns(anatomy, kinds, changes) >= _MAX_KINDS:
            raise Unfit(_changing(anatomy, kinds))
        volatile = _volatile(probe, anatomy)
        kind = _Kind(volatile, anatomy.key(volatile), anatomy.codes, _shapes(anatomy))
        kinds.append(kind)
    anatomy.settle(kind.volatile)
    _remember(func, anatomy, kind, changes)
    return kind, anatomy


def anatomy_of(func: Callable[..., Any]) -> Anatomy | None:
    """What a field was found to hold when it was met last; None if it is not known."""
    seen = _FIELDS.get(id(func))
    return seen.anatomy if seen is not None and seen.reference() is func else None


def _shapes(anatomy: Anatomy) -> list[torch.Size]:
    return [tensor.shape for tensor in anatomy.read() or ()]


def _turns(anatomy: Anatomy, kinds: list[_Kind], changes: int) -> int:
    """How often one field has become another kind, as far as can be told.

    A function written in a loop is a new object each time: its code is what comes back. Objects
    of one class may well be different models; those that differ in numbers alone are one that
    changes, and there is an end to models too.
    """
    if anatomy.root[0] == "code":
        return len(kinds)
    shapes = _shapes(anatomy)
    alike = [
        bool(kind.shapes == shapes and kind.key[0] == anatomy.key(kind.volatile)[0])
        for kind in kinds
    ]
    return max(changes, sum(alike), len(kinds) // 8)


def _remember(func: Callable[..., Any], anatomy: Anatomy, kind: _Kind, changes: int) -> None:
    """Know this very object again, for as long as it lives."""
    key = id(func)
    try:
        reference = weakref.ref(func, lambda _: _FIELDS.pop(key, None))
    except TypeError:  # it cannot be referred to weakly: it is looked through at every solve
        return
    _FIELDS.pop(key, None)
    _FIELDS[key] = _Seen(reference, anatomy, kind, changes)
    while len(_FIELDS) > _MAX_FIELDS:
        _FIELDS.pop(next(iter(_FIELDS)), None)  # the one met first


def _volatile(probe: Callable[[], Any], anatomy: Anatomy) -> frozenset[str]:
    """Paths of what the field changes while it is evaluated, such as a counter."""
    with torch.no_grad(), anatomy.preserved():
        probe()
        return frozenset(site.path for site in anatomy.changed())


def _changing(anatomy: Anatomy, kinds: list[_Kind]) -> str:
    """What to tell of a field that was compiled for one value after another."""
    last = dict(kinds[-1].key[1])
    for path, value in anatomy.plain.items():
        if path in last and last[path] != value:
            return (
                f"{path} changes from solve to solve, and each value needs a compilation of its "
                "own: make it a tensor"
            )
    return "the field changes from solve to solve: pass what changes as tensors in `args=`"


def _name(func: Callable[..., Any]) -> str:
    """What to call a field in a note."""
    return getattr(func, "__qualname__", None) or type(func).__qualname__
