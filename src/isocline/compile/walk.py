"""The walk through all that a callable visibly holds."""

from __future__ import annotations

import enum
import functools
import sys
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from types import NoneType
from typing import Any

from torch import Tensor, nn

from .anatomy import Anatomy
from .natures import codes, idle, inert, installed, library, own, slots, writes_globals
from .sites import (
    MISSING,
    PLAIN,
    Place,
    Site,
    attribute,
    bytes_of,
    class_entry,
    content,
    item,
    itself,
    members,
    one,
    raw_entry,
    refill,
    reset,
    slot,
    store,
    unknown,
)

__all__ = ["dissect"]

_MAKING = ("__init__", "__new__", "__post_init__", "__init_subclass__", "__repr__", "__str__")
"""Methods that have no part in calling an object that is there already."""


def dissect(thing: Any, path: str = "field") -> Anatomy:
    """Everything that `thing` visibly holds; the thing itself is not kept alive."""
    walk = _Walk()
    walk.visit(thing, path, unknown)
    return walk.found


class _Walk:
    """Notes in `found` what it meets; each thing is looked into once."""

    def __init__(self) -> None:
        self.found = Anatomy()
        self._known: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        self._mentioned: set[tuple[int, str]] = set()

    def visit(self, thing: Any, path: str, read: Callable[[], Any]) -> None:
        """Note what is at `path`, and what it holds."""
        found = self.found
        if found.too_large:
            return
        if isinstance(thing, Tensor):
            self._tensor(thing, path, read)
        elif isinstance(thing, PLAIN):
            self._value(thing, path, read)
        elif id(thing) in self._seen:
            found.skeleton.append((path, self._seen[id(thing)]))
            found.sites.append(Site(path, read, thing))
        else:
            self._seen[id(thing)] = len(self._seen)
            self._object(thing, path)

    def _value(self, value: Any, path: str, read: Callable[[], Any]) -> None:
        while path in self.found.plain:  # a cell and a global of one name are two
            path += "'"
        self.found.skeleton.append((path, type(value)))
        self.found.plain[path] = value
        self.found.sites.append(Site(path, read, value))

    def _tensor(self, tensor: Tensor, path: str, read: Callable[[], Any]) -> None:
        found = self.found
        place = self._known.get(id(tensor))
        if place is None:
            place = self._known[id(tensor)] = len(found.tensors)
            found.tensors.append(Site(path, read, None))  # it may go when its owner goes
        else:  # tied to the one found before: that they are the same tensor is part of the trace
            first = found.tensors[place].read
            found.sites.append(Site(path, functools.partial(one, first, read), True))
        if isinstance(tensor, nn.Parameter) or "_buffers" in path:
            found.parameters.add(id(tensor))
        found.skeleton.append((path, ("tensor", place)))

    def _part(self, part: Any, path: str, read: Callable[[], Any]) -> None:
        if not isinstance(part, (Tensor, *PLAIN)):
            self.found.sites.append(Site(path, read, part))
        self.visit(part, path, read)

    def _object(self, thing: Any, path: str) -> None:
        if isinstance(thing, (dict, list, tuple, deque)):
            self._container(thing, path)
        elif isinstance(thing, types.FunctionType):
            self._function(thing, path)
        elif isinstance(thing, types.MethodType):
            self._pieces(thing, path, "method", ("__self__", "__func__"))
        elif isinstance(thing, functools.partial):
            if type(thing) is not functools.partial:
                self.found.untold.append(path)  # what it does besides
            self._pieces(thing, path, "partial", ("func", "args", "keywords"))
        elif isinstance(thing, weakref.ref):
            if type(thing) is not weakref.ref:
                self.found.untold.append(path)
            self.found.skeleton.append((path, "reference"))
            self._part(thing(), f"{path}()", thing)
        elif isinstance(thing, (set, frozenset)) and all(isinstance(x, PLAIN) for x in thing):
            if thing:
                self.found.untold.append(path)  # their order
            self._value(members(thing), path, functools.partial(members, thing))
        else:
            self._other(thing, path)

    def _other(self, thing: Any, path: str) -> None:
        kind = type(thing)
        if kind.__module__ == "numpy" and hasattr(thing, "tobytes"):
            self._array(thing, path)
        elif isinstance(thing, type) and own(thing) and not issubclass(thing, enum.Enum):
            self._identity(thing, path)
            self._classes(thing, path, making=True)
        elif isinstance(thing, nn.Module):
            self._instance(thing, path)
        elif isinstance(thing, (type, types.ModuleType)) or not own(kind):
            self._foreign(thing, path)
        else:
            self._instance(thing, path)

    def _foreign(self, thing: Any, path: str) -> None:
        """Something of a library, or a module: its attributes, where it has any."""
        module = isinstance(thing, types.ModuleType)
        if not inert(thing) and not module and isinstance(getattr(thing, "__dict__", None), dict):
            self._instance(thing, path)
            return
        self._identity(thing, path)
        if not inert(thing):
            self._opaque(thing, path)

    def _identity(self, thing: Any, path: str) -> None:
        self.found.codes.append(thing)
        self.found.skeleton.append((path, ("opaque", id(thing))))

    def _opaque(self, thing: Any, path: str) -> None:
        kind = type(thing)
        self.found.opaque.append((path, f"{kind.__module__}.{kind.__qualname__}"))

    def _array(self, thing: Any, path: str) -> None:
        if thing.dtype.hasobject:
            self._opaque(thing, path)
        else:
            self._value(bytes_of(thing), path, functools.partial(bytes_of, thing))

    def _pieces(self, thing: Any, path: str, token: str, names: tuple[str, ...]) -> None:
        self.found.skeleton.append((path, token))
        for name in names:
            part = getattr(thing, name)
            self.visit(part, f"{path}.{name}", functools.partial(itself, part))

    # --- containers -----------------------------------------------------------------------

    def _container(self, thing: Any, path: str) -> None:
        if type(thing) not in (dict, OrderedDict, list, tuple) and not own(type(thing)):
            self.found.untold.append(path)  # a default, a length that is not exceeded
        if isinstance(thing, dict):
            self._mapping(thing, path)
        else:
            self.found.skeleton.append((path, (type(thing), len(thing))))
            if not isinstance(thing, tuple):
                self._count(thing, path)
                self.found.sequences.append(thing)
            for i, part in enumerate(thing):
                self._part(part, f"{path}[{i}]", functools.partial(item, thing, i))
        if own(type(thing)):
            self._instance(thing, path)

    def _mapping(self, thing: dict[Any, Any], path: str) -> None:
        self.found.skeleton.append((path, (type(thing), tuple(map(str, thing)))))
        self._count(thing, path)
        self.found.holders.append(thing)
        if not all(type(key) in (str, int, float, bool, NoneType) for key in thing):
            self.found.untold.append(path)  # what its keys look like
        for key, part in list(thing.items()):
            self._entry(thing, key, part, f"{path}[{key!r}]")

    def _entry(self, thing: dict[Any, Any], key: Any, part: Any, path: str) -> None:
        self._part(part, path, functools.partial(thing.get, key, MISSING))

    def _count(self, thing: Any, path: str) -> None:
        self.found.sites.append(Site(f"len({path})", functools.partial(len, thing), len(thing)))

    # --- functions ------------------------------------------------------------------------

    def _function(self, thing: types.FunctionType, path: str) -> None:
        code = thing.__code__
        if library(thing.__module__) and thing.__closure__:  # one of many that share a code
            self._identity(thing, path)
            return
        self.found.codes.append(code)
        self.found.written.append((thing.__module__, code))
        self.found.skeleton.append((path, ("code", id(code))))
        if library(thing.__module__):
            return
        names = dict.fromkeys(name for inner in codes(code) for name in inner.co_names)
        for name, cell in zip(code.co_freevars, thing.__closure__ or (), strict=False):
            reader = functools.partial(content, cell)
            self.found.places.append(Place(reader, functools.partial(refill, cell)))
            self._named(reader(), f"{path}.{name}", reader, names)
        reference = weakref.ref(thing)
        self._count(thing.__dict__, f"{path}.__dict__")
        for name in ("__defaults__", "__kwdefaults__", "__dict__"):
            if part := getattr(thing, name):
                self._part(part, f"{path}.{name}", functools.partial(attribute, reference, name))
        if not installed(thing.__module__):  # a notebook puts new code into an old function
            reader = functools.partial(attribute, reference, "__code__")
            self.found.sites.append(Site(f"{path}.__code__", reader, code))
        self._globals(thing, path, names)

    def _globals(self, thing: types.FunctionType, path: str, names: dict[str, None]) -> None:
        """What a function reads from its module, and from modules that it imports as it runs."""
        known, assigns = thing.__globals__, writes_globals(thing.__code__)
        for name in names:
            if name in known:
                self._global(known, name, f"{path}.{name}", thing.__module__, names)
                continue
            if assigns:
                reader = functools.partial(known.get, name, MISSING)
                self.found.places.append(Place(reader, functools.partial(store, known, name)))
            inside = f"{known.get('__package__') or ''}.{name}"
            for module in (sys.modules.get(name), sys.modules.get(inside)):
                if module is not None:
                    self._module(module, f"{path}.{name}", names)

    def _global(
        self, known: dict[str, Any], name: str, path: str, module: str, names: dict[str, None]
    ) -> None:
        """A global of a user's, or of a package that is installed: then numbers and tensors."""
        part = known[name]
        if installed(module) and not isinstance(part, (Tensor, *PLAIN)):
            self.found.named.append((module, (name,)))
            return
        reader = functools.partial(known.get, name, MISSING)
        self.found.places.append(Place(reader, functools.partial(store, known, name)))
        self._named(part, path, reader, names)

    def _named(self, part: Any, path: str, read: Callable[[], Any], names: dict[str, None]) -> None:
        """A part of a function whose code has `names` in it: these may be read from a module."""
        if isinstance(part, types.ModuleType):
            self.found.sites.append(Site(path, read, part))
            self.found.named.append((part.__name__, tuple(names)))
            self._module(part, path, names)
        else:
            self._part(part, path, read)

    def _module(self, module: types.ModuleType, path: str, names: dict[str, None]) -> None:
        if library(module.__name__):
            return
        known = vars(module)
        for name in names:
            if name in known and (id(module), name) not in self._mentioned:
                self._mentioned.add((id(module), name))
                self._global(known, name, f"{path}.{name}", module.__name__, names)

    # --- objects and classes --------------------------------------------------------------

    def _instance(self, thing: Any, path: str) -> None:
        kind = type(thing)
        self.found.codes.append(kind)
        self.found.skeleton.append((path, ("instance", id(kind))))
        attributes = getattr(thing, "__dict__", None)
        if isinstance(attributes, dict):
            self.found.skeleton.append((path, tuple(map(str, attributes))))
            self._count(attributes, path)
            self.found.holders.append(attributes)
            for name, part in list(attributes.items()):
                if not (isinstance(thing, nn.Module) and idle(name)):
                    self._entry(attributes, name, part, f"{path}.{name}")
        elif not any("__slots__" in vars(cls) for cls in kind.__mro__ if cls is not object):
            self._opaque(thing, path)  # written in another language
        for name in slots(kind):
            reader = functools.partial(slot, thing, name)
            self.found.places.append(Place(reader, functools.partial(reset, thing, name)))
            self._part(reader(), f"{path}.{name}", reader)
        self._classes(kind, path, making=False)

    def _classes(self, kind: type, path: str, *, making: bool) -> None:
        """What a class and those that it inherits from define."""
        for cls in kind.__mro__:
            if own(cls) and (not installed(cls.__module__) or not making):
                self._class(cls, f"{path}.{cls.__name__}", making)

    def _class(self, cls: type, path: str, making: bool) -> None:
        for name in list(vars(cls)):
            part = class_entry(cls, name)
            if name == "_abc_impl" or _describes(part):
                continue
            special = name.startswith("__") and name.endswith("__")
            if special and not isinstance(part, types.FunctionType):
                continue
            if (special and name in _MAKING and not making) or (id(cls), name) in self._mentioned:
                continue
            self._mentioned.add((id(cls), name))
            if not isinstance(part, types.FunctionType):
                reader = functools.partial(raw_entry, cls, name)
                self.found.places.append(Place(reader, functools.partial(store, cls, name)))
            self._part(part, f"{path}.{name}", functools.partial(class_entry, cls, name))


def _describes(part: Any) -> bool:
    """Whether an entry of a class is a library's way to an attribute, such as that to a slot."""
    kind = type(part)
    return hasattr(kind, "__get__") and not own(kind) and not isinstance(part, types.FunctionType)
