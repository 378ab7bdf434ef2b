"""Places where values were found: how to read each again, and whether the same is there now."""

from __future__ import annotations

import enum
import fractions
import functools
import hashlib
import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

__all__ = [
    "MISSING",
    "PLAIN",
    "Place",
    "Site",
    "attribute",
    "bytes_of",
    "class_entry",
    "content",
    "item",
    "itself",
    "members",
    "one",
    "raw_entry",
    "refill",
    "reset",
    "slot",
    "store",
    "unknown",
]

PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    range,
    slice,
    fractions.Fraction,
    enum.Enum,
    torch.dtype,
    torch.device,
    torch.Size,
)
"""Types of values that are compared; of other things the identity counts."""

MISSING = object()
"""What is read where nothing is."""


class Site(NamedTuple):
    """A place where a value was found.

    Attributes:
        path: how to get there from the callable, for messages.
        read: reads it again; `MISSING` where it is gone.
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
        if type(now) is not type(self.value) or not isinstance(now, PLAIN):
            return False
        return bool(now == self.value)


class Place(NamedTuple):
    """A place that code can write to, which is no entry of a dictionary or list.

    Attributes:
        read: what is there, `MISSING` if nothing.
        write: put something there, or with `MISSING` nothing.
    """

    read: Callable[[], Any]
    write: Callable[[Any], None]


# --- readers and writers: functions of things, for partial to keep ----------------------------


def unknown() -> Any:
    """Nothing: what was asked for is not to be kept alive."""
    return MISSING


def itself(thing: Any) -> Any:
    """The thing, which cannot be replaced where it is."""
    return thing


def attribute(reference: weakref.ref[Any], name: str) -> Any:
    """An attribute of a thing that is not kept alive by the reader."""
    return getattr(reference(), name, MISSING)


def item(thing: Any, index: int) -> Any:
    """An element of a sequence."""
    return thing[index] if index < len(thing) else MISSING


def content(cell: types.CellType) -> Any:
    """What a closure's cell holds."""
    try:
        return cell.cell_contents
    except ValueError:  # still empty
        return MISSING


def refill(cell: types.CellType, value: Any) -> None:
    """Put something into a cell."""
    if value is not MISSING:
        cell.cell_contents = value
    elif content(cell) is not MISSING:
        del cell.cell_contents


def slot(thing: Any, name: str) -> Any:
    """An attribute that has a slot."""
    return getattr(thing, name, MISSING)


def reset(thing: Any, name: str, value: Any) -> None:
    """Put something into a slot, of a frozen object too."""
    if value is MISSING:
        object.__delattr__(thing, name)
    else:
        object.__setattr__(thing, name, value)


def raw_entry(cls: type, name: str) -> Any:
    """An entry of a class as it stands there."""
    return vars(cls).get(name, MISSING)


def class_entry(cls: type, name: str) -> Any:
    """An entry of a class, out of what wraps it: a property, a static method."""
    part = raw_entry(cls, name)
    for wrapper in ("__func__", "fget"):
        found = getattr(part, wrapper, None)
        if found is not None:
            return found
    return part.func if isinstance(part, functools.cached_property) else part


def store(holder: Any, name: str, value: Any) -> None:
    """Put something among the globals of a module (a dictionary) or the entries of a class."""
    if isinstance(holder, dict):
        if value is MISSING:
            holder.pop(name, None)
        else:
            holder[name] = value
    elif value is MISSING:
        delattr(holder, name)
    else:
        setattr(holder, name, value)


def members(thing: Any) -> str:
    """What a set of plain values has in it."""
    return repr(sorted(map(repr, thing)))


def bytes_of(array: Any) -> str:
    """A digest of a NumPy array or number."""
    found = hashlib.sha256(array.tobytes()).hexdigest()
    return f"{type(array).__name__} {array.dtype} {array.shape} {array.strides} {found}"


def one(first: Callable[[], Any], second: Callable[[], Any]) -> bool:
    """Whether two places hold one thing."""
    return first() is second()
