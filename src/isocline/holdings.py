"""What a callable visibly holds: the tensors that a look at it, without a call, can find."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

__all__ = ["handed", "held", "named_globals", "tensors_of", "visited"]

_WORTH_A_LOOK = (Tensor, nn.Module, types.FunctionType, functools.partial, dict, list, tuple)
"""Kinds of globals that are looked into."""


def handed(thing: Any, depth: int = 6) -> Iterator[Tensor]:
    """Tensors handed to a callable on purpose: arguments, and what functions close over.

    Unlike `held` it does not look at attributes and globals, where results of earlier work lie
    about that the callable may have nothing to do with.
    """
    if isinstance(thing, Tensor):
        yield thing
        return
    parts: Iterable[Any] = ()
    if isinstance(thing, (dict, tuple, list, functools.partial)):
        parts = _parts(thing)
    elif isinstance(thing, types.FunctionType):
        parts = [*_cells(thing), thing.__defaults__, thing.__kwdefaults__]
    if depth:
        for part in parts:
            yield from handed(part, depth - 1)


def held(thing: Any, depth: int = 6) -> Iterator[Tensor]:
    """Every tensor that `thing` visibly holds, itself included, `depth` levels down."""
    return tensors_of(visited(thing, depth))


def tensors_of(things: Iterable[Tensor | nn.Module]) -> Iterator[Tensor]:
    """Tensors as they are, and what modules among them hold themselves."""
    for thing in things:
        if isinstance(thing, nn.Module):
            yield from thing.parameters(recurse=False)
            yield from thing.buffers(recurse=False)
        else:
            yield thing


def visited(thing: Any, depth: int = 6) -> Iterator[Tensor | nn.Module]:
    """The tensors that a look at `thing` meets, `depth` levels down, and all modules, each once."""
    return _visited(thing, depth, set(), set())


def _visited(
    thing: Any, depth: int, seen: set[int], listed: set[int]
) -> Iterator[Tensor | nn.Module]:
    """The same, without what was `seen` before; modules that were `listed` are not told again."""
    if isinstance(thing, Tensor):
        yield thing
        return
    if depth == 0 or thing is None or isinstance(thing, (str, bytes, int, float, complex, type)):
        return
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, nn.Module) and id(thing) not in listed:
        for module in thing.modules():  # however deep
            if id(module) not in listed:
                listed.add(id(module))
                yield module
    for part in _parts(thing):
        yield from _visited(part, depth - 1, seen, listed)


def _parts(thing: Any) -> Iterable[Any]:
    """What a container, callable or object holds, one level down."""
    if isinstance(thing, dict):
        return list(thing.values())
    if isinstance(thing, (tuple, list, set, frozenset)):
        return list(thing)
    if isinstance(thing, functools.partial):
        return [thing.func, thing.args, thing.keywords]
    if isinstance(thing, types.MethodType):
        return [thing.__self__, thing.__func__]
    if isinstance(thing, types.FunctionType):
        return _function_parts(thing)
    if isinstance(thing, (types.ModuleType, types.BuiltinFunctionType)):
        return []
    parts: list[Any] = []
    with contextlib.suppress(Exception):  # a `__getattr__` of the user's may raise anything
        parts += vars(thing).values()
    for cls in type(thing).__mro__:
        slots = getattr(cls, "__slots__", ())
        names = (slots,) if isinstance(slots, str) else slots
        parts += [getattr(thing, name, None) for name in names]
    with contextlib.suppress(AttributeError):  # a scripted module's class has no `forward`
        if isinstance(thing, nn.Module):
            parts.append(type(thing).forward)
        elif callable(thing):
            parts.append(type(thing).__call__)
    return parts


def _function_parts(function: types.FunctionType) -> list[Any]:
    """Closure, defaults, and the globals and functions that the code names."""
    parts: list[Any] = [*_cells(function), function.__defaults__, function.__kwdefaults__]
    parts += [value for _, value in named_globals(function)]
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        parts.append(wrapped)
    return parts


def named_globals(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals that a function's code names, with their names, as far as worth a look."""
    for code in _codes(function.__code__):
        for name in code.co_names:
            value = function.__globals__.get(name)
            if isinstance(value, _WORTH_A_LOOK) and name != "__builtins__":
                yield name, value


def _cells(function: types.FunctionType) -> Iterator[Any]:
    """What a function closes over."""
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # a cell that is still empty
            yield cell.cell_contents


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code and that of the functions and lambdas written inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
