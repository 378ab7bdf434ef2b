"""Which solves can be compiled, and what is known of fields that were."""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..adjoints import Adjoint, Checkpointed
from ..errors import CompileWarning
from ..events import Event
from ..problem import PackedField, Plan, Problem
from ..solvers.explicit import ExplicitRungeKutta
from ..transforms import active
from .anatomy import Anatomy
from .building import BuildError
from .cache import Cache, CacheError
from .native.whole import can_drive
from .passes import Passes
from .program import Program, Request, Subject
from .solver import CompiledSolver
from .tracing import Untraceable
from .walk import dissect

__all__ = ["anatomy_of", "compiled"]

_MAX_KINDS = 8
"""Kinds of one code that are compiled; a field that comes in more of them changes all the time."""


class _Unfit(Exception):  # noqa: N818 (a reason, which becomes a warning)
    """Why a solve is not compiled."""


def compiled(
    problem: Problem, plan: Plan, adjoint: Adjoint, events: tuple[Event, ...], norm: Any
) -> Plan:
    """The plan with compiled steps, or as it is, after a warning that says why.

    Args:
        problem, plan: of the solve.
        adjoint: how it will be differentiated, if grad mode is on.
        events: looked for along the way.
        norm: as the user chose it.
    """
    before, recording = problem.field.evaluations, torch.is_grad_enabled()
    try:
        if active():
            raise _Unfit("it is inside of a transform of torch.func: leave out `compile` there")
        # What is kept must serve solves outside of inference mode too, and traces are no part of
        # what the caller's hooks are to see: activation checkpointing counts what is saved.
        with torch.inference_mode(False), _no_hooks():
            return _compiled(problem, plan, adjoint if recording else None, events, norm)
    except (_Unfit, Untraceable, BuildError, CacheError) as reason:
        text = f"`compile=True`: the solve runs uncompiled, since {reason}."
        warnings.warn(text, CompileWarning, stacklevel=5)
        return plan
    finally:
        problem.field.evaluations = before  # looking at a field is no part of the solve


@contextlib.contextmanager
def _no_hooks() -> Iterator[None]:
    """Inside, the hooks for saved tensors that the caller may have set are not there.

    They cannot be covered by others: torch.func, which a field may use, allows for none.
    """
    hooks: Any = torch._C._autograd
    taken = []
    while (top := hooks._top_saved_tensors_default_hooks(True)) is not None:
        hooks._pop_saved_tensors_default_hooks()
        taken.append(top)
    try:
        yield
    finally:
        for pack, unpack in reversed(taken):
            hooks._push_saved_tensors_default_hooks(pack, unpack)


def _compiled(
    problem: Problem, plan: Plan, adjoint: Adjoint | None, events: tuple[Event, ...], norm: Any
) -> Plan:
    _demand_fit(problem, plan, adjoint, events, norm)
    packed, solver = problem.field, plan.solver
    assert isinstance(solver, ExplicitRungeKutta)
    request = Request(
        tableau=solver.tableau,
        average=norm == "rms",
        adaptive=plan.controller.adaptive,
        vectors=isinstance(plan.rtol, Tensor) or isinstance(plan.atol, Tensor),
        stages=bool(plan.ts) or plan.save.dense,
        passes=Passes(),
    )

    def evaluate() -> None:
        packed(problem.y0.new_tensor(problem.t0), problem.y0.detach())

    known, anatomy = _find(packed.func, evaluate)
    of_args = _dissected(packed.args, "args") if packed.args else None
    subject = _subject(packed, anatomy, of_args)
    program = known.program(request, subject, of_args)
    tensors = subject.tensors
    wanted = adjoint is not None and (
        problem.y0.requires_grad or any(tensors[i].requires_grad for i in program.tensors)
    )
    start = program.start(subject) if plan.dt0 is None else None
    kept = None
    if wanted and isinstance(adjoint, Checkpointed) and can_drive(plan):
        kept = program.kept(subject, adjoint.graph_budget)
    used = [tensors[place] for place in program.tensors]
    ready = CompiledSolver(solver, plan, packed.packing, program, used, start, kept, _again)
    if kept is None:
        ready.prepare(packed, pulls=wanted)
    return replace(plan, solver=ready)


def _subject(packed: PackedField, anatomy: Anatomy, of_args: Anatomy | None) -> Subject:
    tensors = _tensors(anatomy, of_args)
    fixed = anatomy.parameters | (of_args.parameters if of_args is not None else set())
    return Subject(packed.func, packed.args, packed.packing, tensors, fixed, anatomy)


@contextlib.contextmanager
def _again(packed: PackedField) -> Iterator[Subject]:
    """A field that was compiled before, while further formulas of it are traced."""
    with torch.inference_mode(False), _no_hooks():
        anatomy = anatomy_of(packed.func) or _dissected(packed.func, "field")
        of_args = _dissected(packed.args, "args") if packed.args else None
        yield _subject(packed, anatomy, of_args)


def _demand_fit(
    problem: Problem, plan: Plan, adjoint: Adjoint | None, events: tuple[Event, ...], norm: Any
) -> None:
    packing, solver = problem.field.packing, plan.solver
    if not isinstance(solver, ExplicitRungeKutta):
        raise _Unfit(f"solver={solver!r} is not an explicit Runge-Kutta method: take one, as Tsit5")
    if packing.device.type != "cpu":
        raise _Unfit(f"states on {packing.device} are not compiled yet: move them to the CPU")
    if packing.dtype.is_complex:
        raise _Unfit("complex states are not compiled: give the real and imaginary parts")
    if events:
        raise _Unfit("events are looked for step by step: leave out `event` or `compile`")
    if callable(norm):
        raise _Unfit("norm is a function of your own: take 'max_rms' or 'rms'")
    if problem.field.autocast is not None:
        raise _Unfit("autocast is on: leave it, or cast inside the field")
    if problem.times is not None:
        raise _Unfit("a time requires grad: pass times as numbers")
    if solver.tableau.extra_a and (plan.ts or plan.save.dense):
        raise _Unfit(f"output of {solver.name} between steps takes further stages: take Tsit5")
    if adjoint is not None and not (isinstance(adjoint, Checkpointed) and adjoint.slots is None):
        raise _Unfit(f"adjoint={adjoint!r} is not compiled: take Checkpointed()")


def _dissected(thing: Any, path: str) -> Anatomy:
    """Everything that `thing` holds, if all of it can be looked at."""
    try:
        found = dissect(thing, path)
    except RecursionError:
        raise _Unfit(f"what {path} holds is nested too deeply: pass tensors by `args=`") from None
    if found.too_large:
        raise _Unfit(f"{path} holds too many things to look through: pass tensors by `args=`")
    if found.opaque:
        where, kind = found.opaque[0]
        raise _Unfit(
            f"what {where} holds, a {kind}, cannot be found out, nor whether it changes: pass "
            "tensors by `args=`, and numbers in lists, dicts or plain objects"
        )
    return found


def _tensors(*anatomies: Anatomy | None) -> list[Tensor]:
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

    def program(self, request: Request, subject: Subject, of_args: Anatomy | None) -> Program:
        """One that fits, made if there is none."""
        key = None if of_args is None else of_args.key(frozenset())
        for known, program in self.programs:
            if known == key and program.fits(request, subject.packing, subject.tensors):
                return program
        layout = _layout(subject)
        for failure in self.failures:
            if failure.layout == layout and failure.key == key and request.matches(failure.request):
                raise _Unfit(failure.reason)
        self._demand_few(request, key)
        try:
            program = Program(subject, request, Cache(), _name(subject.func), self.volatile)
        except (Untraceable, BuildError) as reason:
            self.failures.append(_Failure(key, request, layout, str(reason)))
            raise
        self.programs.append((key, program))
        return program

    def _demand_few(self, request: Request, key: Any) -> None:
        """Refuse to compile without end."""
        keys: list[Any] = []
        for known, _ in self.programs:
            if known != key and known not in keys:
                keys.append(known)
        if len(keys) >= _MAX_KINDS:
            raise _Unfit("its arguments change from solve to solve: pass numbers as tensors")
        alike = [known == key and made.request.matches(request) for known, made in self.programs]
        if sum(alike) >= _MAX_KINDS:
            raise _Unfit(
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
    request: Request
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


def _find(func: Callable[..., Any], probe: Callable[[], Any]) -> tuple[_Kind, Anatomy]:
    """The kind that a field belongs to; `probe` evaluates it once."""
    seen = _FIELDS.get(id(func))
    if seen is not None and seen.reference() is not func:
        seen = None
    if seen is not None and seen.anatomy.held() is not None:
        return seen.kind, seen.anatomy
    anatomy = _dissected(func, "field")
    kinds = _KINDS.setdefault(anatomy.root, [])
    kind = next((kind for kind in kinds if anatomy.key(kind.volatile) == kind.key), None)
    changes = 0 if seen is None else seen.changes + (kind is not seen.kind)
    if kind is None:
        if _turns(anatomy, kinds, changes) >= _MAX_KINDS:
            raise _Unfit(_changing(anatomy, kinds))
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
