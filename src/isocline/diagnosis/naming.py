"""Names for the tensors that a field depends on, as its writer would call them."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from torch import Tensor, nn

from ..holdings import named_globals

__all__ = ["named"]

_PLAIN = (str, bytes, int, float, complex, type)


def named(roots: Iterable[tuple[str, Any]], tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    """`tensors` by name, in their order.

    A parameter is called as in its module, below the name of the variable that holds the module,
    if there is one: "net.0.weight"; one that is not found, by number and shape.

    Args:
        roots: where to look, with the names of these places: "" of the field, "args" of arguments.
        tensors: what to name.
    """
    names: dict[int, str] = {}
    for name, root in roots:
        for path, tensor in _found(root, name, depth=6, seen=set()):
            names.setdefault(id(tensor), path)
    numbers = count(1)
    given: dict[str, Tensor] = {}
    for tensor in tensors:
        name = names.get(id(tensor), "")
        if not name or name in given:
            name = f"tensor {next(numbers)} of shape {tuple(tensor.shape)}"
        given[name] = tensor
    return given


def _found(thing: Any, path: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """The tensors below `thing`, with the ways to them."""
    if isinstance(thing, Tensor):
        yield path, thing
        return
    if depth == 0 or id(thing) in seen or isinstance(thing, _PLAIN):
        return
    seen.add(id(thing))
    if isinstance(thing, nn.Module):
        for name, parameter in thing.named_parameters():
            yield _joined(path, name), parameter
    for name, part in _parts(thing):
        yield from _found(part, _joined(path, name), depth - 1, seen)


def _joined(path: str, name: str) -> str:
    if not path or not name or name.startswith("["):
        return path + name
    return f"{path}.{name}"


def _parts(thing: Any) -> list[tuple[str, Any]]:
    """What a thing holds, one level down, by name."""
    if isinstance(thing, dict):
        return [(f"[{key!r}]", value) for key, value in thing.items()]
    if isinstance(thing, (tuple, list)):
        return [(f"[{place}]", value) for place, value in enumerate(thing)]
    if isinstance(thing, functools.partial):
        given = [(f"[{place}]", value) for place, value in enumerate(thing.args)]
        return [("", thing.func), *given, *thing.keywords.items()]
    if isinstance(thing, types.MethodType):
        return [("", thing.__self__), ("", thing.__func__)]
    if isinstance(thing, types.FunctionType):
        return [*_closed_over(thing), *named_globals(thing)]
    own = [*getattr(thing, "__dict__", {}).items()]
    own += [
        (name, getattr(thing, name, None))
        for cls in type(thing).__mro__
        for name in getattr(cls, "__slots__", ())
    ]
    # A module's parameters and submodules are named already; they lie in `_parameters` and such.
    parts = [(name, value) for name, value in own if not name.startswith("_")]
    code = type(thing).forward if isinstance(thing, nn.Module) else type(thing).__call__
    return [*parts, ("", code)] if isinstance(code, types.FunctionType) else parts


def _closed_over(function: types.FunctionType) -> list[tuple[str, Any]]:
    """Variables of a closure, and defaults, by name."""
    found: list[tuple[str, Any]] = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found.append((name, cell.cell_contents))
        except ValueError:  # a cell that is still empty
            continue
    defaults = function.__defaults__ or ()
    arguments = function.__code__.co_varnames[: function.__code__.co_argcount]
    found += zip(arguments[len(arguments) - len(defaults) :], defaults, strict=True)
    return [*found, *(function.__kwdefaults__ or {}).items()]
