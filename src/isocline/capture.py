"""Parameter capture: which tensors does a field use, other than t and y?

An adjoint that runs the forward loop without a graph must know every tensor that is to receive a
gradient. Two sources are joined:

1. what the field visibly holds: a module's parameters and buffers, closure cells, defaults,
   `functools.partial` arguments, globals that the code names, attributes of bound objects, `args`;
2. the graph of one evaluation at (t0, y0), followed to its leaves. Where it passes a tensor that
   was computed before the solve (by an encoder, say) and that source 1 knows, it is followed no
   further: that tensor receives the gradient, and hands it on. Unless it was computed from another
   captured tensor: autograd would then give that one its share twice, so the graph is followed
   through, and leaves alone are captured.

A tensor that neither shows, because the field hides it and uses it only later, is met in the
backward pass: an error, not a silent zero.
"""

from __future__ import annotations

import functools
from collections.abc import Container, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from .errors import GradientError
from .events import Event
from .holdings import handed, held, tensors_of, visited
from .sharding import is_shard, refusing_shards
from .solvers.base import Solver
from .solvers.wrapped import proper
from .written import Writes, as_they_are

__all__ = ["Captured", "Guard", "capture", "operations_so_far", "with_tensors_of"]


Edge = tuple[Node | None, int]
"""An operation in autograd's graph, and which of its results."""


class Watched(Protocol):
    """A field as it is watched: `PackedField`, or the field of per-sample stepping."""

    @property
    def func(self) -> Any:
        """The user's function."""

    @property
    def args(self) -> tuple[Any, ...]:
        """What it is handed besides t and y."""

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Its value at the time `t` and the packed state `y`, of the shape of `y`."""


class Captured(NamedTuple):
    """What one watched evaluation of a field tells.

    Attributes:
        tensors: the tensors requiring grad that the field depends on, or may, besides t and y.
        used: which of them that evaluation used.
        value: the field at the watched point, detached; None if none was watched.
        graph_bytes: what autograd keeps of one evaluation, beyond those tensors.
        written: tensors that the evaluation changed in place, such as running statistics.
    """

    tensors: tuple[Tensor, ...]
    used: tuple[bool, ...]
    value: Tensor | None
    graph_bytes: int
    written: tuple[Tensor, ...] = ()


def capture(field: Watched, t: Tensor, y: Tensor, solver: Solver | None = None) -> Captured:
    """Watch one evaluation of `field` at the 0-d time `t` and the packed state `y`, shape (N,).

    Tensors that `solver` holds, trainable coefficients, count as used.

    Raises:
        GradientError: if the field draws random numbers, which a backward pass could not draw
            again, or its value depends on what it wrote at its last evaluation, or FSDP shards it.
    """
    root = (field.func, field.args)
    things = list(visited(root))
    tensors = list(tensors_of(things))
    writes = Writes(tensors, (thing for thing in things if isinstance(thing, nn.Module)))
    visible = [tensor for tensor in tensors if tensor.requires_grad]
    # A shard that is merely in sight belongs to another part of the model.
    leaves = (tensor for tensor in visible if tensor.is_leaf and not is_shard(tensor))
    found = _Found([*leaves, *handed(root)])
    random = _random_state(y.device)
    with torch.enable_grad(), refusing_shards():
        leaf = y.detach().clone().requires_grad_()
        value = field(t, leaf)
    if not all(map(torch.equal, random, _random_state(y.device))):
        raise GradientError(
            "the field draws random numbers (dropout, or noise of its own): it is not a function "
            "of (t, y), and a backward pass would see other draws. Draw them once before the "
            "solve and close over them, call `.eval()`, or use `adjoint=Direct()`."
        )
    written = writes.found()
    used = _follow(value, leaf, found, {edge_of(tensor): tensor for tensor in visible})
    coefficients = [tensor for tensor in held(proper(solver)) if tensor.requires_grad]
    found.extend(coefficients)
    used.update(map(id, coefficients))
    for tensor in list(found.tensors.values()):
        _disentangle(tensor, found)
    captured = tuple(found.tensors.values())
    first = value.detach().clone()
    told = Captured(
        captured,
        tuple(tensor in used for tensor in map(id, captured)),
        first,
        _graph_bytes(value, found.edges, captured),
        written,
    )
    if written:  # last of all: what it writes over may belong to the graph that was looked at
        _check_repeatable(field, t, leaf, first, written)
    return told


def with_tensors_of(captured: Captured, events: Sequence[Event]) -> Captured:
    """What was captured, with what conditions and handlers of events hold besides."""
    known = set(map(id, captured.tensors))
    more = {
        id(tensor): tensor
        for event in events
        for tensor in held((event.condition, event.handler))
        if tensor.requires_grad and id(tensor) not in known
    }
    tensors = (*captured.tensors, *more.values())
    return captured._replace(tensors=tensors, used=(*captured.used, *(True for _ in more)))


def _check_repeatable(
    field: Watched, t: Tensor, y: Tensor, first: Tensor, written: Sequence[Tensor]
) -> None:
    """Refuse a field that answers otherwise when it is asked the same again.

    Batch normalisation writes what it does not read while it trains. Rounding is let pass, and so
    is a power iteration that has converged to half the digits.
    """
    if not bool(first.isfinite().all()):
        return  # which the solve will say, with the sample
    with torch.no_grad(), as_they_are(written):
        second = field(t, y.detach())
    near = torch.finfo(first.dtype).eps ** 0.5 * first.abs().max()
    if not bool((second - first).abs().max() <= near):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in written)
        raise GradientError(
            "the field changes tensors of its own at each evaluation, and its value depends on "
            f"them (their shapes: {shapes}): it is not a function of (t, y), and a backward pass "
            "would see another field. Call `.eval()`, keep such a layer outside of the field, or "
            "use `adjoint=Direct()`."
        )


def _follow(value: Tensor, leaf: Tensor, found: _Found, visible: dict[Edge, Tensor]) -> set[int]:
    """Add what the graph of `value` depends on, `leaf` excepted; the ids of all it depends on."""
    used: set[int] = set()
    if value.grad_fn is None:
        found.extend([value])  # the field returned a leaf as it is
        return {id(value)}
    for tensor in _upstream([edge_of(value)], {**visible, **found.edges}):
        if tensor is not leaf:
            found.extend([tensor])
            used.add(id(tensor))
    return used


def _disentangle(tensor: Tensor, found: _Found) -> None:
    """Put the leaves of a tensor in its place, if it was computed from another that was found."""
    if tensor.grad_fn is None:
        return
    others = {edge: other for edge, other in found.edges.items() if other is not tensor}
    sources = list(_upstream([edge_of(tensor)], others))
    if any(id(source) in found.tensors for source in sources):
        found.drop(tensor)
        found.extend(source for source in sources if source.is_leaf)


def _upstream(edges: list[Edge], stops: Mapping[Edge, Tensor]) -> Iterator[Tensor]:
    """The leaves behind edges of the graph, and the tensors at `stops`, not looked behind."""
    for edge in _walk(edges, stops):
        if edge in stops:
            yield stops[edge]
        elif isinstance(variable := getattr(edge[0], "variable", None), Tensor):
            yield variable


def _walk(edges: list[Edge], stops: Container[Edge]) -> Iterator[tuple[Node, int]]:
    """Every edge behind `edges`, these included; nothing behind `stops`."""
    stack, seen = list(edges), set(edges)
    while stack:
        node, output = stack.pop()
        if node is None:
            continue
        yield node, output
        if (node, output) not in stops:
            new = [parent for parent in node.next_functions if parent not in seen]
            seen.update(new)
            stack += new


def _graph_bytes(value: Tensor, stops: Container[Edge], known: Iterable[Tensor]) -> int:
    """Bytes that the graph of `value` keeps for its backward pass, in storages not of `known`.

    Read off the graph's nodes: hooks on saved tensors would see them too, but under such hooks
    `torch.func.grad` and its kin, which a field may call, refuse to run.
    """
    storages: dict[int, int] = {}
    for node, _ in _walk([edge_of(value)], stops):
        for tensor in _saved(node):
            place = _place(tensor)
            if place is None:
                storages[-1 - len(storages)] = tensor.numel() * tensor.element_size()
            else:
                storages[place] = tensor.untyped_storage().nbytes()
    for tensor in known:
        storages.pop(_place(tensor) or 0, None)
    return sum(storages.values())


def _place(tensor: Tensor) -> int | None:
    """Where a tensor's storage lies; a wrapper, of `torch.func` or a `DTensor`, has none."""
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:
        return None


def _saved(node: Node) -> Iterator[Tensor]:
    """The tensors that a node keeps for its backward pass."""
    for name in _names_of_saved(type(node)):
        kept = getattr(node, name)
        for tensor in kept if isinstance(kept, (tuple, list)) else (kept,):
            if isinstance(tensor, Tensor):
                yield tensor


@functools.lru_cache(maxsize=1024)
def _names_of_saved(kind: type[Node]) -> tuple[str, ...]:
    """Under which names a kind of node, one for each operation, hands out what it keeps."""
    names = (name for name in dir(kind) if name.startswith("_saved_") or name == "saved_tensors")
    return tuple(names)


def _random_state(device: torch.device) -> list[Tensor]:
    """States of the generators that a field would draw from by default."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


class Guard:
    """Sees to it that what a step depends on was captured, though one evaluation did not show it.

    A field may use a tensor only later, or only in some states. Its graph then reaches a leaf that
    is not among the captured ones, whichever way it goes there.

    Args:
        captured: the tensors that receive a gradient.
    """

    def __init__(self, captured: Iterable[Tensor]) -> None:
        found = _Found(captured)
        self._known = found.tensors
        self._edges = found.edges
        self._seen: set[Hashable] = set()

    def check(self, outputs: Iterable[Tensor], leaves: Iterable[Tensor], size: Hashable) -> None:
        """Raise `GradientError` if `outputs` depend on a leaf not captured nor one of `leaves`.

        Looking over a graph node by node costs as much as a tenth of its backward pass. So it is
        done for each `size` (number of operations, from `operations_so_far`) that is new: a step
        that uses what no other step used takes another path through the field.
        """
        if size in self._seen:
            return
        self._seen.add(size)
        own = set(map(id, leaves))
        for tensor in _upstream(list(map(edge_of, outputs)), self._edges):
            if id(tensor) not in self._known and id(tensor) not in own:
                raise GradientError(
                    "the field came to depend, later than at its first evaluation, on a tensor of "
                    f"shape {tuple(tensor.shape)} that cannot be found in its closure, attributes "
                    "or arguments: its gradient would be lost. Pass it through `args=`, or use "
                    "`adjoint=Direct()`."
                )


def operations_so_far(leaf: Tensor) -> int:
    """How many operations autograd has recorded on this thread; `leaf` is any that requires grad.

    Grad mode must be on.
    """
    return int(leaf.view_as(leaf).grad_fn._sequence_nr())  # type: ignore[union-attr]


def edge_of(tensor: Tensor) -> Edge:
    """Where a tensor sits in autograd's graph."""
    return tensor.grad_fn, tensor.output_nr


class _Found:
    """Tensors requiring grad by identity, and those that are not leaves by their edge too."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors: dict[int, Tensor] = {}
        self.edges: dict[Edge, Tensor] = {}
        self.extend(tensors)

    def extend(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            if tensor.requires_grad and id(tensor) not in self.tensors:
                self.tensors[id(tensor)] = tensor
                if tensor.grad_fn is not None:
                    self.edges[edge_of(tensor)] = tensor

    def drop(self, tensor: Tensor) -> None:
        del self.tensors[id(tensor)]
        self.edges.pop(edge_of(tensor), None)
