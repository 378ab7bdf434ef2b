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

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from .errors import GradientError
from .holdings import handed, held
from .problem import PackedField

__all__ = ["Captured", "capture"]


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
        GradientError: if the field's graph reaches a tensor that cannot be named, or if the field
            draws random numbers, which a backward pass could not draw again.
    """
    root = (field.func, field.args)
    visible = [tensor for tensor in held(root) if tensor.requires_grad]
    found = _Found(tensor for tensor in visible if tensor.is_leaf)
    found.extend(handed(root))
    saved, random = _SavedBytes(), _random_state(y.device)
    with saved:
        value, borders = _watch_graph(field, t, y, found)
    if not all(map(torch.equal, random, _random_state(y.device))):
        raise GradientError(
            "the field draws random numbers (dropout, or noise of its own): it is not a function "
            "of (t, y), and a backward pass would see other draws. Draw them once before the "
            "solve and close over them, call `.eval()`, or use `adjoint=Direct()`."
        )
    if found.lacks(borders):
        found.extend(tensor for tensor in visible if edge_of(tensor) in borders)
    if found.lacks(borders):
        with _Watch() as watch, torch.enable_grad():
            field(t, y.detach().requires_grad_())
        found.extend(tensor for tensor in watch.used() if edge_of(tensor) in borders)
    if unknown := found.lacks(borders):
        raise GradientError(
            f"the field depends on a tensor that was computed before the solve ({unknown}) and "
            "cannot be found in its closure, attributes or arguments: its gradient would be "
            "lost. Pass it through `args=`, or use `adjoint=Direct()`."
        )
    tensors = tuple(found.tensors.values())
    return Captured(tensors, value.detach().clone(), saved.beyond(tensors))


def _random_state(device: torch.device) -> list[Tensor]:
    """States of the generators that a field would draw from by default."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


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


Edge = tuple[Node | None, int]


def edge_of(tensor: Tensor) -> Edge:
    """Where a tensor sits in autograd's graph."""
    return tensor.grad_fn, tensor.output_nr


class _Found:
    """Tensors requiring grad by identity, and the graph edges of those that are not leaves."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors: dict[int, Tensor] = {}
        self.edges: set[Edge] = set()
        self.extend(tensors)

    def extend(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            if tensor.requires_grad and id(tensor) not in self.tensors:
                self.tensors[id(tensor)] = tensor
                if tensor.grad_fn is not None:
                    self.edges.add(edge_of(tensor))

    def lacks(self, borders: set[Edge]) -> str:
        """The name of an operation at the border whose result was not found; "" if none is."""
        missing = next((node for node, number in borders if (node, number) not in self.edges), None)
        return "" if missing is None else missing.name()


def _watch_graph(
    field: PackedField, t: Tensor, y: Tensor, found: _Found
) -> tuple[Tensor, set[Edge]]:
    """Evaluate once; add the graph's leaves to `found`; return the value and the border edges."""
    with torch.enable_grad():
        leaf = y.detach().clone().requires_grad_()
        # Nodes are numbered as they are made: whatever the evaluation makes comes after this.
        mark: int = leaf.view(-1).grad_fn._sequence_nr()  # type: ignore[union-attr]
        value = field(t, leaf)
    borders: set[Edge] = set()
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
                found.extend([variable])
            continue
        for parent, number in node.next_functions:
            if parent is None:
                continue
            made_before = parent._sequence_nr() < mark
            if (parent, number) in found.edges or made_before:
                borders.add((parent, number))
            else:
                stack.append(parent)
    if value.grad_fn is None and value.requires_grad:  # the field returned a leaf as it is
        found.extend([value])
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
        for tensor in held((args, kwargs), depth=3):
            if tensor.requires_grad and id(tensor) not in self._made:
                self._used[id(tensor)] = tensor
        result = func(*args, **kwargs)
        for tensor in held(result, depth=3):
            self._made[id(tensor)] = tensor
        return result

    def used(self) -> list[Tensor]:
        return list(self._used.values())
