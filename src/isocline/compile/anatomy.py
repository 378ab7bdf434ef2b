"""What a callable is made of: whether a trace of it still holds, and the tensors to run it with.

A trace is valid for one code with one set of plain values: a field that was traced with `k = 2`
would go on computing with 2. Tensors are inputs of what is compiled; everything else that the
field visibly holds is remembered, and compared at the next solve. What the field itself changes
while it is evaluated, such as a counter, is left out.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Anatomy", "Site", "dissect"]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
_LIMIT = 20_000
"""Sites after which a callable counts as too large to look through."""

_MISSING = object()


class Site(NamedTuple):
    """A place where a value was found.

    Attributes:
        path: how to get there from the callable, for messages.
        read: reads it again; `_MISSING` where it is gone.
        value: what was there: a plain value, or an object of which the identity counts.
    """

    path: str
    read: Callable[[], Any]
    value: Any

    @property
    def entry(self) -> tuple[dict[Any, Any] | None, Any]:
        """The dictionary and key that it is the entry of, if it is one."""
        read = self.read
        if isinstance(read, functools.partial):
            holder = getattr(read.func, "__self__", None)
            if isinstance(holder, dict):
                return holder, read.args[0]
        return None, None

    @property
    def same(self) -> bool:
        """Whether the same is there now."""
        now = self.read()
        if now is self.value:
            return True
        if type(now) is not type(self.value) or not isinstance(now, (*_PLAIN, enum.Enum)):
            return False
        return bool(now == self.value)


class Anatomy:
    """What `dissect` found.

    Attributes:
        skeleton: kinds and codes, without plain values: hashable, equal for like callables.
        plain: plain values by path.
        sites: everything but tensors whose change makes a trace void.
        tensors: where tensors are; a tensor that was found twice stands there once.
        parameters: ids of those that are parameters or buffers of modules.
    """

    def __init__(self) -> None:
        self.skeleton: list[tuple[str, Any]] = []
        self.plain: dict[str, Any] = {}
        self.sites: list[Site] = []
        self.tensors: list[Site] = []
        self.parameters: set[int] = set()
        self.codes: list[Any] = []  # the skeleton has their ids: kept, so that these stay theirs
        self.holders: list[dict[Any, Any]] = []
        self._quick: list[tuple[dict[Any, Any], Any, Any]] = []
        self._lengths: list[tuple[Any, int]] = []
        self._slow: list[Site] = []
        self._known: dict[int, int] = {}
        self._seen: dict[int, int] = {}

    def holds(self) -> bool:
        """Whether nothing has changed: what is asked before every solve."""
        for holder, key, value in self._quick:
            if holder.get(key, _MISSING) is not value:
                return False
        for holder, length in self._lengths:
            if len(holder) != length:
                return False
        return all(site.same for site in self._slow) and self.read() is not None

    def changed(self) -> list[Site]:
        """The sites where something else is now."""
        return [site for site in self.sites if not site.same]

    def settle(self, volatile: frozenset[str]) -> None:
        """Leave out what the callable changes itself, and make `holds` quick."""
        self._quick, self._lengths, self._slow = [], [], []
        for site in self.sites:
            if site.path in volatile:
                continue
            holder, key = site.entry
            if holder is not None:
                self._quick.append((holder, key, site.value))
            elif isinstance(site.read, functools.partial) and site.read.func is len:
                self._lengths.append((site.read.args[0], site.value))
            else:
                self._slow.append(site)

    @property
    def root(self) -> tuple[str, int]:
        """The first code or class that was met, and which of them it is."""
        tokens = (token for _, token in self.skeleton if isinstance(token, tuple))
        return next((t for t in tokens if t[0] in ("code", "instance")), ("other", 0))

    @property
    def too_large(self) -> bool:
        """Whether not everything was looked at."""
        return len(self.skeleton) > _LIMIT

    def key(self, volatile: frozenset[str]) -> tuple[Any, Any]:
        """Equal for callables that have a trace in common; `volatile` paths are left out."""
        if not volatile:
            return tuple(self.skeleton), tuple(self.plain.items())
        inside = tuple(f"{path}{mark}" for path in volatile for mark in ("[", "."))

        def kept(path: str) -> bool:
            return not (path in volatile or f"len({path})" in volatile or path.startswith(inside))

        skeleton = tuple(entry for entry in self.skeleton if kept(entry[0]))
        return skeleton, tuple(item for item in self.plain.items() if kept(item[0]))

    def read(self) -> list[Tensor] | None:
        """The tensors as they are now; None where one is gone."""
        found = [site.read() for site in self.tensors]
        return found if all(isinstance(tensor, Tensor) for tensor in found) else None

    @contextlib.contextmanager
    def preserved(self) -> Iterator[None]:
        """Put everything back at the end: a trace leaves no counts and no fake tensors behind."""
        before = [(holder, dict(holder)) for holder in self.holders]
        try:
            yield
        finally:
            for holder, entries in before:
                for key in set(holder) - set(entries):
                    del holder[key]
                for key, value in entries.items():
                    if holder.get(key, _MISSING) is not value:
                        holder[key] = value

    # --- the walk -------------------------------------------------------------------------

    def visit(self, thing: Any, path: str, read: Callable[[], Any]) -> None:
        """Note what is at `path`, and what it holds."""
        if len(self.skeleton) > _LIMIT:
            return
        if isinstance(thing, Tensor):
            self._tensor(thing, path, read)
        elif isinstance(thing, (*_PLAIN, enum.Enum)):
            self.skeleton.append((path, type(thing)))
            self.plain[path] = thing
            self.sites.append(Site(path, read, thing))
        elif id(thing) in self._seen:
            self.skeleton.append((path, self._seen[id(thing)]))
            self.sites.append(Site(path, read, thing))
        else:
            self._seen[id(thing)] = len(self._seen)
            self._object(thing, path, read)

    def _tensor(self, tensor: Tensor, path: str, read: Callable[[], Any]) -> None:
        place = self._known.get(id(tensor))
        if place is None:
            place = self._known[id(tensor)] = len(self.tensors)
            self.tensors.append(Site(path, read, tensor))
        else:  # tied to the one found before: that they are the same tensor is part of the trace
            self.sites.append(Site(path, read, tensor))
        if isinstance(tensor, nn.Parameter) or "_buffers" in path:
            self.parameters.add(id(tensor))
        self.skeleton.append((path, ("tensor", place)))

    def _object(self, thing: Any, path: str, read: Callable[[], Any]) -> None:
        if isinstance(thing, dict):
            self._mapping(thing, path)
        elif isinstance(thing, (tuple, list)):
            self.skeleton.append((path, (type(thing), len(thing))))
            if isinstance(thing, list):
                self._count(thing, path)
            for i, part in enumerate(thing):
                self._part(part, f"{path}[{i}]", functools.partial(_item, thing, i))
        elif isinstance(thing, types.FunctionType):
            self._function(thing, path)
        elif isinstance(thing, types.MethodType):
            self.skeleton.append((path, "method"))
            for name in ("__self__", "__func__"):
                part = getattr(thing, name)
                self.visit(part, f"{path}.{name}", functools.partial(_itself, part))
        elif isinstance(thing, functools.partial):
            self.skeleton.append((path, "partial"))
            for name in ("func", "args", "keywords"):
                part = getattr(thing, name)
                self.visit(part, f"{path}.{name}", functools.partial(_itself, part))
        elif isinstance(thing, (set, frozenset)) and all(isinstance(x, _PLAIN) for x in thing):
            self.visit(repr(sorted(map(repr, thing))), path, lambda: repr(sorted(map(repr, thing))))
        elif _foreign(thing):
            self.codes.append(thing)
            self.skeleton.append((path, ("opaque", id(thing))))
        else:
            self._instance(thing, path)

    def _mapping(self, thing: dict[Any, Any], path: str) -> None:
        self.skeleton.append((path, (type(thing), tuple(map(str, thing)))))
        self._count(thing, path)
        self.holders.append(thing)
        for key, part in list(thing.items()):
            self._entry(thing, key, part, f"{path}[{key!r}]")

    def _entry(self, thing: dict[Any, Any], key: Any, part: Any, path: str) -> None:
        self._part(part, path, functools.partial(thing.get, key, _MISSING))

    def _count(self, thing: Any, path: str) -> None:
        self.sites.append(Site(f"len({path})", functools.partial(len, thing), len(thing)))

    def _function(self, thing: types.FunctionType, path: str) -> None:
        code = thing.__code__
        self.codes.append(code)
        self.skeleton.append((path, ("code", id(code))))
        if (thing.__module__ or "").split(".")[0] == "torch":
            return
        for i, cell in enumerate(thing.__closure__ or ()):
            name, reader = code.co_freevars[i], functools.partial(_content, cell)
            self._part(reader(), f"{path}.{name}", reader)
        for i, part in enumerate(thing.__defaults__ or ()):
            self._part(part, f"{path}.__defaults__[{i}]", functools.partial(_itself, part))
        if thing.__kwdefaults__:
            self.visit(thing.__kwdefaults__, f"{path}.__kwdefaults__", lambda: thing.__kwdefaults__)
        for name in dict.fromkeys(name for inner in _codes(code) for name in inner.co_names):
            part = thing.__globals__.get(name, _MISSING)
            if part is not _MISSING and not isinstance(part, types.ModuleType):
                reader = functools.partial(thing.__globals__.get, name, _MISSING)
                self._part(part, f"{path}.{name}", reader)

    def _part(self, part: Any, path: str, reader: Callable[[], Any]) -> None:
        if not isinstance(part, (Tensor, *_PLAIN, enum.Enum)):
            self.sites.append(Site(path, reader, part))
        self.visit(part, path, reader)

    def _instance(self, thing: Any, path: str) -> None:
        kind = type(thing)
        self.codes.append(kind)
        self.skeleton.append((path, ("instance", id(kind))))
        attributes = getattr(thing, "__dict__", None)
        if isinstance(attributes, dict):
            self.skeleton.append((path, tuple(map(str, attributes))))
            self._count(attributes, path)
            self.holders.append(attributes)
            for name, part in list(attributes.items()):
                if not (isinstance(thing, nn.Module) and _idle(name)):
                    self._entry(attributes, name, part, f"{path}.{name}")
        for cls in kind.__mro__:
            if _own(cls):
                self._class(cls, path)

    def _class(self, cls: type, path: str) -> None:
        for name, part in list(vars(cls).items()):
            if name.startswith("__") and name not in ("__call__",):
                continue
            wrapped = getattr(part, "__func__", None) or getattr(part, "fget", None) or part
            if isinstance(wrapped, (Tensor, types.FunctionType, *_PLAIN)):
                where = f"{path}.{cls.__name__}.{name}"
                reader = functools.partial(_class_entry, cls, name)
                self._part(wrapped, where, reader)


def dissect(thing: Any, path: str = "field") -> Anatomy:
    """Everything that `thing` visibly holds; the thing itself is not kept alive."""
    found = Anatomy()
    found.visit(thing, path, _unknown)
    return found


def _own(cls: type) -> bool:
    """Whether a class is somebody's own: not Python's and not torch's, which do not change."""
    return cls.__module__.split(".")[0] not in ("builtins", "torch", "abc", "typing", "collections")


def _foreign(thing: Any) -> bool:
    """Whether only the identity of a thing is to be looked at."""
    if isinstance(thing, (type, types.ModuleType, types.BuiltinFunctionType)):
        return True
    return not isinstance(thing, nn.Module) and not _own(type(thing))


def _idle(name: str) -> bool:
    """Whether an attribute of every module has no part in calling it."""
    private = ("state_dict", "non_persistent", "with_kwargs", "always_called", "is_full")
    return name.startswith("_") and any(part in name for part in private)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _unknown() -> Any:
    return _MISSING


def _itself(thing: Any) -> Any:
    return thing


def _item(thing: Any, index: int) -> Any:
    return thing[index] if index < len(thing) else _MISSING


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # still empty
        return _MISSING


def _class_entry(cls: type, name: str) -> Any:
    part = vars(cls).get(name, _MISSING)
    return getattr(part, "__func__", None) or getattr(part, "fget", None) or part
