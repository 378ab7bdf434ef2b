"""A small graph of known sizes as one C++ function.

What AOTInductor makes of a step over a few numbers spends three quarters of its time on tensors:
one for every buffer, every result of a kernel, every view that is handed on. Here buffers are
arrays on the stack, views are places in them, and what works element by element is one loop. It
compiles in a fraction of Inductor's time.

A solve over a 2-64-64-2 network at batch 1 takes 0.68 of the time that it takes with artifacts of
Inductor alone, and a training step, with the pull-back's layers as one operator too, 0.61 (medians
of interleaved rounds on a busy machine).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ..passes.operators import PULLS
from ..tracing import is_view, written
from .arrays import Array, Loops, alike, by_rows, shape_of
from .expressions import C_TYPES, elementwise, literal
from .frame import framed

__all__ = ["emitted", "suits"]

_aten: Any = torch.ops.aten
_layers = torch.ops.isocline.small_layers.default

_MOST_BYTES = 256 * 2**10
"""Of all arrays of a graph: they lie on the stack."""

_MOST_NODES = 3000

_LONGEST_AXIS = 128
"""Of a product: larger ones are MKL's."""

_UNROLLED = 4
"""Longest inner axis for which a product is a sum of terms, part of what it is added to."""

_SUMS = {
    _aten.sum.default: ("0", "{0} + {1}"),
    _aten.sum.dim_IntList: ("0", "{0} + {1}"),
    _aten.mean.default: ("0", "{0} + {1}"),
    _aten.mean.dim: ("0", "{0} + {1}"),
    _aten.all.default: ("true", "({0} && {1})"),
}


class _UnsuitedError(Exception):
    """A graph is not small, or has an operator that is not known here."""


def suits(graph: GraphModule) -> bool:
    """Whether all sizes of the inputs are known: a quick look, before `emitted`."""
    inputs = [node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")]
    known = all(isinstance(size, int) for value in inputs for size in value.shape)
    return known and len(graph.graph.nodes) <= _MOST_NODES


def emitted(graph: GraphModule) -> str | None:
    """The source of a library with the function `isocline_run`; None where it is not for this.

    Args:
        graph: over ATen, perhaps with `small_layers`; each node has what it stands for.
    """
    try:
        return _Emitter(graph).source()
    except _UnsuitedError:
        return None


class _Emitter:
    """Writes the body, statement by statement."""

    def __init__(self, graph: GraphModule) -> None:
        self._nodes = list(graph.graph.nodes)
        self._inputs = [node for node in self._nodes if node.op == "placeholder"]
        given: Any = graph.graph.output_node().args[0]
        self._outputs: list[Node] = list(given)
        self._lines: list[str] = []
        self._bytes = self._count = 0
        self._names: dict[Node, str] = {}  # of arrays of their own

    def source(self) -> str:
        """The whole file."""
        for number, node in enumerate(self._inputs):
            self._demand(node)
            self._names[node] = f"in{number}"
        for node in self._nodes:
            if node.op == "call_function":
                self._statement(node)
            elif node.op not in ("placeholder", "output"):
                raise _UnsuitedError
        for number, node in enumerate(self._outputs):
            self._hand_over(number, node)
        return framed(self._inputs, self._outputs, self._lines)

    # --- statements -------------------------------------------------------------------------

    def _statement(self, node: Node) -> None:
        given: Any = node.args
        if _is_place(node):
            return  # a place in what is there
        if node.target is _aten.add_.Tensor:
            self._add_to(node, *given)
            return
        if next(written(node), None) is not None:
            raise _UnsuitedError
        self._demand(node)
        if self._is_part(node):
            return
        if node.target is _layers:
            self._chain(node, *given)
        elif node.target is _aten.mm.default:
            self._product(node, *given)
        elif node.target is _aten.addmm.default and not node.kwargs:
            self._product(node, given[1], given[2], given[0])
        elif node.target in _SUMS and not node.kwargs:
            self._sum(node, *given)
        elif node.target in (_aten.cat.default, _aten.stack.default):
            self._put_together(node, *given)
        elif elementwise(node) is not None:
            to = self._new(node)
            self._loop(to, "=", node)
            self._names[node] = to.base
        else:
            raise _UnsuitedError

    def _loop(self, to: Array, sign: str, node: Node) -> None:
        """A loop over the elements of a node, or of an array that is there."""
        parts = [node] if self._has_name(node) else list(self._parts(node))
        operands = [self._lying(leaf) for part in parts for leaf in self._read(part)]
        sums = any(part.target is _aten.mm.default and part not in self._names for part in parts)
        flat = not sums and all(
            one.size == 1 or (one.shape == to.shape and one.together) for one in [to, *operands]
        )
        to = to.flat if flat else to
        with Loops(self._lines, to.shape) as indices:
            value = self._element(node, indices, to.shape, flat)
            self._lines.append(f"{to.element(indices, to.shape)} {sign} {value};")

    def _add_to(self, node: Node, total: Node, term: Any) -> None:
        """Add to an input, which nothing else may read."""
        plain = not node.kwargs and not node.users and total.op == "placeholder"
        if not (plain and len(total.users) == 1 and isinstance(term, Node)):
            raise _UnsuitedError
        one, other = total.meta["val"], term.meta["val"]
        if one.shape != other.shape or one.dtype is not other.dtype:
            raise _UnsuitedError
        self._loop(self._lying(total), "+=", term)

    def _sum(self, node: Node, source: Node, axes: Any = None, *_: Any) -> None:
        """A sum, a mean, or whether all are true."""
        shape, kind = shape_of(source), C_TYPES[node.meta["val"].dtype]
        summed = {axis % len(shape) for axis in axes} if axes else set(range(len(shape)))
        kept = [axis for axis in range(len(shape)) if axis not in summed]
        to, (zero, combined) = self._declared(node), _SUMS[node.target]
        if not to.together:
            raise _UnsuitedError
        to = Array(to.base, 0, *by_rows([shape[axis] for axis in kept]))
        self._lines.append(f"for (int i = 0; i < {to.size}; i++) {to.base}[i] = {zero};")
        with Loops(self._lines, shape) as indices:
            element = to.element([indices[axis] for axis in kept], to.shape)
            part = f"{kind}({self._lying(source).element(indices, shape)})"
            self._lines.append(f"{element} = {combined.format(element, part)};")
        if node.target in (_aten.mean.default, _aten.mean.dim):
            each = math.prod(shape) // to.size
            self._lines.append(f"for (int i = 0; i < {to.size}; i++) {to.base}[i] /= {each};")

    def _put_together(self, node: Node, parts: Any, axis: int = 0) -> None:
        """Tensors one after another, or side by side."""
        to, stacked = self._declared(node), node.target is _aten.stack.default
        axis, first = axis % len(to.shape), 0
        for part in parts:
            source = self._lying(part)
            if part.meta["val"].dtype is not node.meta["val"].dtype:
                raise _UnsuitedError
            strides = to.strides[:axis] + to.strides[axis + 1 :] if stacked else to.strides
            if len(strides) != len(source.shape):  # an empty vector beside other shapes
                raise _UnsuitedError
            piece = Array(to.base, first * to.strides[axis], source.shape, strides)
            with Loops(self._lines, source.shape) as indices:
                target, value = (one.element(indices, source.shape) for one in (piece, source))
                self._lines.append(f"{target} = {value};")
            first += 1 if stacked else source.shape[axis]

    def _product(self, node: Node, a: Node, b: Node, bias: Node | None = None) -> None:
        (rows, inner), columns = shape_of(a), shape_of(b)[1]
        kind = C_TYPES[node.meta["val"].dtype]
        if max(rows, inner, columns) > _LONGEST_AXIS or kind == "bool":
            raise _UnsuitedError
        to, factors = self._declared(node), f"{self._matrix(a)}, {self._matrix(b)}"
        sizes = f"{rows}, {columns}, {inner}"
        self._lines.append(f"product<{kind}>({factors}, {to.base}, {sizes}, false);")
        if bias is not None:
            with Loops(self._lines, to.shape) as indices:
                element = self._lying(bias).element(indices, to.shape)
                self._lines.append(f"{to.element(indices, to.shape)} += {element};")

    def _matrix(self, node: Node) -> str:
        """A matrix as a kernel takes it: where it lies, and whether it is turned there."""
        array = self._lying(node)
        if array.together:
            return f"{array.start}, false"
        if array.turned.together:
            return f"{array.start}, true"
        copy = self._array(by_rows(array.shape), node)
        with Loops(self._lines, array.shape) as indices:
            to, value = (one.element(indices, array.shape) for one in (copy, array))
            self._lines.append(f"{to} = {value};")
        return f"{copy.start}, false"

    def _chain(self, node: Node, x: Node, parts: Sequence[Node], form: Sequence[int]) -> None:
        """Layers one after another, as `small_layers` takes them."""
        numbers, given = iter(form), iter(parts)
        rows, inner, first = next(numbers), next(numbers), next(numbers)

        def pointer(is_there: bool) -> str:
            if not is_there:
                return "nullptr"
            lying = self._lying(next(given))
            return lying._replace(at=lying.at + next(numbers)).start

        every = []
        for columns in numbers:
            kind = next(numbers)
            follows = kind >> 3
            pointers = [pointer(True), pointer(bool(kind & 2)), pointer(follows >= PULLS)]
            flags = [str(bool(kind & bit)).lower() for bit in (1, 4)]
            every.append("{" + ", ".join([*pointers, *flags, str(columns), str(follows)]) + "}")
        to, start = self._declared(node), self._lying(x)
        start = start._replace(at=start.at + first)
        name = f"layers_of_{to.base}"
        self._lines.append(f"const Layer {name}[] = {{{', '.join(every)}}};")
        self._lines.append(
            f"layers({start.start}, {name}, {len(every)}, {to.base}, {rows}, {inner});"
        )

    # --- expressions ------------------------------------------------------------------------

    def _is_part(self, node: Node) -> bool:
        """Whether a node becomes part of the expression of the only one that uses it."""
        if not (elementwise(node) or _is_short(node)):
            return False
        last, user = node, node
        while len(last.users) == 1:
            user = next(iter(last.users))
            if not _is_place(user):
                break
            last = user
        if user is last or not alike(last.meta["val"], node.meta["val"]):
            return False
        places = [place for place, given in enumerate(user.args) if given is last]
        if user.target is _aten.add_.Tensor:
            return places == [1]
        found = elementwise(user)
        if found is None or shape_of(user) != shape_of(node) or len(places) != 1:
            return False
        return found[0].count(f"{{{places[0]}}}") == 1

    def _has_name(self, node: Node) -> bool:
        """Whether a node, or what it is a view of, is an array."""
        return _root(node) in self._names

    def _parts(self, node: Node) -> Iterator[Node]:
        """A node, and the others that are in its expression."""
        node = node if node in self._names else _root(node)
        yield node
        for given in node.all_input_nodes:
            if not self._has_name(given):
                yield from self._parts(given)

    def _read(self, part: Node) -> Iterator[Node]:
        """The arrays that a part of an expression reads."""
        given = [part] if self._has_name(part) else part.all_input_nodes
        yield from (one for one in given if self._has_name(one))

    def _element(self, node: Node, indices: list[str], shape: Sequence[int], flat: bool) -> str:
        """An element of a node: of its array, or an expression."""
        if self._has_name(node):
            lying = self._lying(node)
            return (lying.flat if flat else lying).element(indices, shape)
        node = _root(node)
        given: Any = node.args
        if node.target is _aten.mm.default:
            (a, b), (i, j) = map(self._lying, given), indices
            terms = [
                f"{a.element([i, str(k)], a.shape)} * {b.element([str(k), j], b.shape)}"
                for k in range(a.shape[1])
            ]
            return f"({' + '.join(terms)})"
        found = elementwise(node)
        if found is None:
            raise _UnsuitedError
        text, dtype = found
        parts = []
        for place, one in enumerate(given):
            if not isinstance(one, Node):
                parts.append(literal(one, dtype) if isinstance(one, (int, float)) else "")
                continue
            part = self._element(one, indices, shape, flat)
            as_it_is = one.meta["val"].dtype is dtype
            as_it_is |= node.target is _aten.where.self and place == 0
            parts.append(part if as_it_is else f"{C_TYPES[dtype]}({part})")
        return f"({text.format(*parts)})"

    # --- arrays -----------------------------------------------------------------------------

    def _demand(self, node: Node) -> None:
        """Raise where a node is no dense tensor of known size and type, or all are too large."""
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or value.dtype not in C_TYPES or not value.numel():
            raise _UnsuitedError
        if not all(isinstance(n, int) for n in (*value.shape, *value.stride())):
            raise _UnsuitedError
        if node.op != "placeholder":
            self._bytes += value.numel() * value.element_size()
        if self._bytes > _MOST_BYTES:
            raise _UnsuitedError

    def _declared(self, node: Node) -> Array:
        """A new array, which is the node's from here on."""
        array = self._new(node)
        self._names[node] = array.base
        return array

    def _new(self, node: Node) -> Array:
        """A new array for a node, laid out as its tensor is."""
        value = node.meta["val"]
        last = sum((n - 1) * stride for n, stride in zip(value.shape, value.stride(), strict=True))
        if last + 1 != value.numel():
            raise _UnsuitedError
        laid = (tuple(value.shape), tuple(value.stride()))
        return self._array(by_rows(value.shape) if value.is_contiguous() else laid, node)

    def _array(self, laid: tuple[tuple[int, ...], tuple[int, ...]], like: Node) -> Array:
        """A new array with a shape and strides, of the type of a node."""
        array = Array(f"v{self._count}", 0, *laid)
        self._count += 1
        kind = C_TYPES[like.meta["val"].dtype]
        self._lines.append(f"alignas(kBytes) {kind} {array.base}[{array.size}];")
        return array

    def _lying(self, node: Node) -> Array:
        """Where the elements of a node lie."""
        root = _root(node)
        if root not in self._names:
            raise _UnsuitedError
        value, base = node.meta["val"], root.meta["val"]
        start = value.storage_offset() - base.storage_offset()
        numbers = (start, *value.shape, *value.stride())
        if not all(isinstance(number, int) for number in numbers):
            raise _UnsuitedError
        return Array(self._names[root], start, tuple(value.shape), tuple(value.stride()))

    def _hand_over(self, number: int, node: Any) -> None:
        """Write a result to where the caller wants it."""
        if not isinstance(node, Node) or not node.meta["val"].is_contiguous():
            raise _UnsuitedError
        self._loop(Array(f"out{number}", 0, *by_rows(shape_of(node))), "=", node)


def _is_short(node: Node) -> bool:
    """Whether a node is a product that is a sum of few terms."""
    short = node.target is _aten.mm.default and shape_of(node.all_input_nodes[0])[1] <= _UNROLLED
    return short and node.meta["val"].dtype is not torch.bool


def _root(node: Node) -> Node:
    """The node that another is a view of, or itself."""
    while _is_place(node):
        node = node.all_input_nodes[0]
    return node


def _is_place(node: Node) -> bool:
    """Whether a node lies in the memory of another."""
    return is_view(node) or node.target is _aten._unsafe_view.default
