"""Products of small matrices by kernels of our own, in the place of calls of a BLAS.

A step of a neural ODE makes tens of products of 10 to 10^6 multiplications. For these a call of
MKL costs more than the product where there are few rows, and much of the processor's speed
elsewhere. The kernels (`products.h`, plain C++) are compiled into each artifact.

Microseconds for 128x64 by 64x64 in float32, AVX2: 14.8, by MKL 19.1. From 256x256 on they are
level, and MKL has threads. A step and a pull-back of a 2-64-64-2 network at batch 1 take 17.6 and
43 us with the kernels, 24.4 and 54 with fused loops in the place of the products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from . import operators as _operators  # noqa: F401 (it registers them)

__all__ = ["FEW", "LARGEST", "call", "operand", "products"]

LARGEST = 128
"""Longest axis, the batch apart, up to which our kernels are used."""

_UNROLLED = 4
"""Longest inner axis for which the product is a sum of terms, fused with what is around it."""

_NARROW = 4
"""Most columns for which rows of both factors are multiplied whole."""

FEW = 8
"""Rows below which nothing is copied, so that a weight may lie as it is."""

_aten = torch.ops.aten
_product = torch.ops.isocline.small_product.default
_products = torch.ops.isocline.small_products.default


def products(graph: GraphModule, fixed: set[Node]) -> None:
    """Rewrite the products of `graph` in place.

    Args:
        graph: over ATen.
        fixed: nodes that are computed once for each solve: what is turned of these is hoisted.
    """
    _merge_sums(graph.graph)
    for node in list(graph.graph.nodes):
        if node.target is _aten.addmm.default and not node.kwargs:
            bias, left, right = node.args
        elif node.target is _aten.mm.default:
            bias, (left, right) = None, node.args
        else:
            continue
        with graph.graph.inserting_before(node):
            found = _as_product(left, right, fixed)
            if found is None:
                continue
            found = _as_laid_out(found, node)
            if bias is not None:
                found = call(_aten.add.Tensor, found, bias)
        found.meta = dict(node.meta)
        node.replace_all_uses_with(found)
        graph.graph.erase_node(node)


def _as_product(left: Node, right: Node, fixed: set[Node]) -> Node | None:
    """The product by our kernels, None where it should stay."""
    rows, inner = left.meta["val"].shape
    columns = right.meta["val"].shape[1]
    if not _ours(left, rows, inner, columns):
        return None
    few = isinstance(rows, int) and rows < FEW
    if isinstance(inner, int) and inner <= _UNROLLED:
        return _unrolled(left, right if few else _rows_first(right, fixed), inner)
    a, a_turned = operand(left)
    b, b_turned = operand(right)
    narrow = isinstance(columns, int) and columns <= _NARROW
    if a_turned and not b_turned and narrow:
        return call(_aten.t.default, call(_product, b, a, True, False))
    if not few and right in fixed and b_turned != narrow:
        turned = _transposed(b)
        b, b_turned = _copied(turned), narrow
        fixed.update((b, turned))
    return call(_product, a, b, a_turned, b_turned)


def _as_laid_out(found: Node, node: Node) -> Node:
    """The product in the layout of the one that it replaces, where what follows may build on it.

    A gradient that is added to its total may lie as it comes.
    """
    if found.target is not _aten.t.default or _is_only_added(node):
        return found
    found.meta["val"] = node.meta["val"]
    return _copied(found)


def _is_only_added(node: Node) -> bool:
    """Whether a matrix only comes into sums that are added to what is there already."""
    return all(
        user.target is _aten.add_.Tensor
        or (user.target in (_aten.t.default, _aten.add.Tensor) and _is_only_added(user))
        for user in node.users
    )


def _ours(left: Node, *sizes: Any) -> bool:
    """Whether a product is small enough for our kernels; one axis may be the batch."""
    if left.meta["val"].dtype not in (torch.float32, torch.float64):
        return False
    known = sorted(size for size in sizes if isinstance(size, int))
    return len(known) >= 2 and known[1] <= LARGEST


def _rows_first(node: Node, fixed: set[Node]) -> Node:
    """A matrix with contiguous rows where that costs no copy at every step."""
    return _copied(node) if node in fixed and not node.meta["val"].is_contiguous() else node


def _unrolled(left: Node, right: Node, inner: int) -> Node:
    """The product as a sum over a short inner axis, to be fused with what is around it."""
    total: Node | None = None
    for k in range(inner):
        column = call(_aten.unsqueeze.default, call(_aten.select.int, left, 1, k), 1)
        row = call(_aten.unsqueeze.default, call(_aten.select.int, right, 0, k), 0)
        term = call(_aten.mul.Tensor, column, row)
        total = term if total is None else call(_aten.add.Tensor, total, term)
    assert total is not None
    return total


def operand(node: Node) -> tuple[Node, bool]:
    """A contiguous matrix, and whether it is the transpose of the one asked for."""
    if node.meta["val"].is_contiguous():
        return node, False
    source = _source(node)
    if source is not None and source.meta["val"].is_contiguous():
        return source, True
    return _copied(node), False


def _source(node: Node) -> Node | None:
    """The matrix that a node is the transpose of."""
    given: Any = node.args
    turns = (
        node.target is _aten.t.default
        or (node.target is _aten.transpose.int and {axis % 2 for axis in given[1:]} == {0, 1})
        or (node.target is _aten.permute.default and list(given[1]) == [1, 0])
    )
    source: Node | None = given[0] if turns else None
    return source


def _copied(node: Node) -> Node:
    """A matrix laid out by rows."""
    found: Node = call(_aten.clone.default, node)
    found.kwargs = {"memory_format": torch.contiguous_format}
    found.meta["val"] = node.meta["val"].contiguous()
    return found


def _transposed(node: Node) -> Node:
    found: Node = call(_aten.t.default, node)
    found.meta["val"] = node.meta["val"].t()
    return found


def _merge_sums(graph: Graph) -> None:
    """Sums of products over the batch (a weight's gradients by the stages) become one operator."""
    for root in list(graph.nodes):
        if root.target is not _aten.add.Tensor or _inside_sum(root):
            continue
        terms = [_transposed_product(leaf) for leaf in _leaves(root)]
        pairs = [term for term in terms if term is not None]
        if len(pairs) < 2 or len(pairs) < len(terms):
            continue
        left, right = map(list, zip(*pairs, strict=True))
        rows, columns = left[0].meta["val"].shape[1], right[0].meta["val"].shape[1]
        inner = left[0].meta["val"].shape[0]
        if not _ours(left[0], rows, inner, columns):
            continue
        if isinstance(inner, int) and inner <= _UNROLLED:
            continue
        with graph.inserting_before(root):
            if columns <= _NARROW < rows:
                found = call(_aten.t.default, call(_products, right, left))
            else:
                found = call(_products, left, right)
            found = _as_laid_out(found, root)
        root.replace_all_uses_with(found)


def _inside_sum(node: Node) -> bool:
    """Whether the only use of a node is as a term of another sum."""
    return len(node.users) == 1 and next(iter(node.users)).target is _aten.add.Tensor


def _leaves(root: Node) -> list[Node]:
    """The terms of a sum of matrices of one shape."""
    found: list[Node] = []
    shape = root.meta["val"].shape
    for term in root.args[:2]:
        if not isinstance(term, Node) or root.kwargs or term.meta["val"].shape != shape:
            return [root]
        inner = term.target is _aten.add.Tensor and len(term.users) == 1
        found += _leaves(term) if inner else [term]
    return found


def _transposed_product(node: Node) -> tuple[Node, Node] | None:
    """(a, b) where a node is a^T b, or its transpose, of two contiguous matrices."""
    turned = False
    while (source := _source(node)) is not None and len(node.users) == 1:
        node, turned = source, not turned
    if node.target is not _aten.mm.default or len(node.users) != 1:
        return None
    given: Any = node.args
    left, right = given
    a = _source(left)
    if a is None or not all(n.meta["val"].is_contiguous() for n in (a, right)):
        return None
    return (right, a) if turned else (a, right)


def call(target: Any, *args: Any) -> Node:
    """A node where its graph is being written."""
    first = args[0]
    graph: Graph = (first[0] if isinstance(first, list) else first).graph
    return graph.call_function(target, args)
