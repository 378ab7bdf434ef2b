"""Parameter capture: which tensors does a field use, other than t and y?

An adjoint that runs the forward loop without a graph must know every tensor that is to receive a
gradient. Three sources are joined:

1. what the field visibly holds: a module's parameters and buffers, closure cells, defaults,
   `functools.partial` arguments, globals that the code names, attributes of bound objects, `args`;
2. the graph of one evaluation at (t0, y0): its leaves are known exactly;
3. where that graph leads back into one made before the evaluation (the field closes over a
   tensor that was computed, say by an encoder), the tensor at the border: from source 1, or
   failing that by watching a second evaluation's calls.

What the graph shows and none of them finds is an error, not a silent zero.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from .errors import GradientError
from .problem import PackedField

__all__ = ["Captured", "capture"]

_WORTH_A_LOOK = (Tensor, nn.Module, types.FunctionType, functools.partial, dict, list, tuple)
"""Kinds of globals that source 1 looks into."""

_DEPTH = 6
"""How far into containers, closures and attributes source 1 looks."""


class Captured(NamedTuple):
    """What one watched evaluation of a field tells.

    Attributes:
        tensors: the tensors requiring grad that the field depends on, besides t and y.
        value: the field at the watched point, detached.
        graph_bytes: what autograd keeps of one evaluation, beyond those tensors.
    """

    tensors: tuple[Tensor, ...]
    value: Tensor
    graph_bytes: int


def capture(field: PackedField, t: Tensor, y: Tensor) -> Captured:
    """Watch one evaluation of `field` at the 0-d time `t` and the packed state `y`, shape (N,).

    Raises:
        GradientError: if the field's graph reaches a tensor that cannot be named.
    """
    found = _Found(_held((field.func, field.args), _DEPTH))
    saved = _SavedBytes()
    with saved:
        value, borders = _watch_graph(field, t, y, found)
    unknown = [edge for edge in borders if edge not in found.edges]
    if unknown:
        with _Watch() as watch, torch.enable_grad():
            field(t, y.detach().requires_grad_())
        for tensor in watch.used():
            found.add(tensor)
        unknown = [edge for edge in borders if edge not in found.edges]
    if unknown:
        raise GradientError(
            "the field depends on a tensor that was computed before the solve "
            f"({unknown[0][0].name()}) and cannot be found in its closure, attributes or "
            "arguments: its gradient would be lost. Pass it through `args=`, or use "
            "`adjoint=Direct()`."
        )
    tensors = tuple(found.tensors.values())
    return Captured(tensors, value.detach(), saved.beyond(tensors))


class _SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Adds up the storage that autograd saves for its backward pass."""

    def __init__(self) -> None:
        self._storages: dict[int, int] = {}
        super().__init__(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    def beyond(self, tensors: Iterable[Tensor]) -> int:
        """Bytes in storages that do not belong to `tensors`."""
        known = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        return sum(size for pointer, size in self._storages.items() if pointer not in known)


class _Found:
    """Tensors requiring grad by identity, and the graph edge of each that is not a leaf."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors: dict[int, Tensor] = {}
        self.edges: set[tuple[Node, int]] = set()
        for tensor in tensors:
            self.add(tensor)

    def add(self, tensor: Tensor) -> None:
        if not tensor.requires_grad or id(tensor) in self.tensors:
            return
        self.tensors[id(tensor)] = tensor
        if tensor.grad_fn is not None:
            self.edges.add((tensor.grad_fn, tensor.output_nr))


def _watch_graph(
    field: PackedField, t: Tensor, y: Tensor, found: _Found
) -> tuple[Tensor, list[tuple[Node, int]]]:
    """Evaluate once; add the graph's leaves to `found`; return the value and the border edges."""
    with torch.enable_grad():
        leaf = y.detach().clone().requires_grad_()
        # Nodes are numbered as they are made: whatever the evaluation makes comes after this.
        mark: int = leaf.view(-1).grad_fn._sequence_nr()  # type: ignore[union-attr]
        value = field(t, leaf)
    borders: list[tuple[Node, int]] = []
    seen: set[Node] = set()
    stack = [value.grad_fn] if value.grad_fn is not None else []
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            if variable is not leaf:
                found.add(variable)
            continue
        for parent, number in node.next_functions:
            if parent is None:
                continue
            made_before = parent._sequence_nr() < mark
            if (parent, number) in found.edges or made_before:
                borders.append((parent, number))
            else:
                stack.append(parent)
    if value.grad_fn is None and value.requires_grad:  # the field returned a leaf as it is
        found.add(value)
    return value, borders


class _Watch(TorchFunctionMode):
    """Sees each tensor that enters a torch call and was not made by an earlier one."""

    def __init__(self) -> None:
        super().__init__()
        self._used: dict[int, Tensor] = {}
        self._made: dict[int, Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        for tensor in _held((args, kwargs), 3):
            if tensor.requires_grad and id(tensor) not in self._made:
                self._used[id(tensor)] = tensor
        result = func(*args, **kwargs)
        for tensor in _held(result, 3):
            self._made[id(tensor)] = tensor
        return result

    def used(self) -> list[Tensor]:
        return list(self._used.values())


def _held(thing: Any, depth: int, seen: set[int] | None = None) -> Iterator[Tensor]:
    """Every tensor that `thing` visibly holds, itself included."""
    if isinstance(thing, Tensor):
        yield thing
        return
    if depth == 0 or thing is None or isinstance(thing, (str, bytes, int, float, complex, type)):
        return
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, nn.Module):
        yield from thing.parameters()
        yield from thing.buffers()
    for part in _parts(thing):
        yield from _held(part, depth - 1, seen)


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
    parts = list(getattr(thing, "__dict__", {}).values())
    for cls in type(thing).__mro__:
        slots = getattr(cls, "__slots__", ())
        names = (slots,) if isinstance(slots, str) else slots
        parts += [getattr(thing, name) for name in names if hasattr(thing, name)]
    if callable(thing) and not isinstance(thing, nn.Module):
        parts.append(type(thing).__call__)
    return parts


def _function_parts(function: types.FunctionType) -> list[Any]:
    """Closure, defaults, and the globals and functions that the code names."""
    parts: list[Any] = [function.__defaults__, function.__kwdefaults__]
    for cell in function.__closure__ or ():
        try:
            parts.append(cell.cell_contents)
        except ValueError:  # a cell that is still empty
            continue
    for code in _codes(function.__code__):
        for name in code.co_names:
            value = function.__globals__.get(name)
            if isinstance(value, _WORTH_A_LOOK) and name != "__builtins__":
                parts.append(value)
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        parts.append(wrapped)
    return parts


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code and that of the functions and lambdas written inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
