"""Kinds of things that a walk meets: somebody's own or a library's, still or changing."""

from __future__ import annotations

import dis
import functools
import itertools
import sys
import types
from collections.abc import Iterator
from typing import Any

__all__ = ["codes", "idle", "inert", "installed", "library", "own", "slots", "writes_globals"]

_STORE_GLOBAL = dis.opmap["STORE_GLOBAL"]

_STILL_TYPES = (
    types.BuiltinFunctionType,
    types.CodeType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.MethodWrapperType,
    types.GenericAlias,
    types.UnionType,
    property,
    type(Ellipsis),
    type(NotImplemented),
)
_STILL = (
    *("logging", "threading", "re", "io", "_io", "pathlib", "decimal", "datetime", "operator"),
    *("typing", "_thread", "_abc", "abc"),
)
"""Modules of Python's of whose objects none is changed, or none that numbers depend on."""

_STILL_TORCH = ("torch._ops", "torch._C", "torch.jit", "torch.autograd", "torch.utils.hooks")


def _package(name: str | None) -> str:
    """The package that a module belongs to."""
    return (name or "").split(".")[0]


def library(name: str | None) -> bool:
    """Whether a module is Python's, torch's or NumPy's."""
    root = _package(name)
    return root in ("torch", "numpy", "builtins") or root in sys.stdlib_module_names


@functools.cache
def installed(name: str | None) -> bool:
    """Whether a module is isocline's, or lies where packages are installed."""
    if _package(name) == "isocline":
        return True
    place = getattr(sys.modules.get(name or ""), "__file__", None) or ""
    return "site-packages" in place or "dist-packages" in place


def own(cls: type) -> bool:
    """Whether a class is somebody's own: no library's, which do not change."""
    return not library(cls.__module__)


def inert(thing: Any) -> bool:
    """Whether of a library's thing the identity tells all: it does not change."""
    if isinstance(thing, types.BuiltinFunctionType):
        holder = thing.__self__
        return holder is None or isinstance(holder, (type, types.ModuleType))
    if isinstance(thing, type):
        return True
    if isinstance(thing, types.ModuleType):
        return library(thing.__name__) or installed(thing.__name__)
    kind = type(thing)
    if kind is object or isinstance(thing, _STILL_TYPES):
        return True
    if kind.__module__.startswith("torch"):
        return kind.__module__.startswith(_STILL_TORCH) or not hasattr(thing, "__dict__")
    if kind.__module__ == "numpy":
        return kind.__name__ == "ufunc" or "dtype" in kind.__name__.lower()
    return _package(kind.__module__) in _STILL


def idle(name: str) -> bool:
    """Whether an attribute of every module has no part in calling it."""
    private = ("state_dict", "non_persistent", "with_kwargs", "always_called", "is_full")
    return name.startswith("_") and any(part in name for part in private)


def slots(kind: type) -> list[str]:
    """Names of the slots of a class, as they are spelt outside of it."""
    found = []
    for cls in kind.__mro__:
        given = vars(cls).get("__slots__", ())
        for name in (given,) if isinstance(given, str) else tuple(given):
            hidden = name.startswith("__") and not name.endswith("__")
            found.append(f"_{cls.__name__.lstrip('_')}{name}" if hidden else name)
    return [name for name in dict.fromkeys(found) if name not in ("__dict__", "__weakref__")]


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code and those of functions written inside of it."""
    inside = (part for part in code.co_consts if isinstance(part, types.CodeType))
    return itertools.chain([code], *map(codes, inside))


def writes_globals(code: types.CodeType) -> bool:
    """Whether a code assigns to a global."""
    return any(_STORE_GLOBAL in inner.co_code[::2] for inner in codes(code))
