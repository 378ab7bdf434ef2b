"""What is put together from columns and taken apart again is not put together.

A field over few numbers often takes its state apart (`x, v = y.unbind(-1)`) and stacks what it
finds. Rounds of per-sample stepping do the same between their stages (`lane_formulas.py`), so with
the stacks gone all stages are one loop over lanes. A round of 256 van der Pol oscillators by
Dormand and Prince's method, microseconds on a busy machine: rows of two numbers 62, columns that
are stacked 64, this 30.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ..tracing import written

__all__ = ["columns"]

_aten: Any = torch.ops.aten

_ELEMENTWISE = (_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.neg.default)
_RESHAPES = (_aten.view.default, _aten.reshape.default, _aten._unsafe_view.default)


def columns(graph: GraphModule) -> None:
    """Rewrite `graph` in place."""
    # A stack shares no memory with its parts: what is written to later has to be in both.
    barred = {node for one in graph.graph.nodes for node in written(one)}
    for node in list(graph.graph.nodes):
        source, axis, number = _taken(node)
        if source is None or node in barred:
            continue
        with graph.graph.inserting_before(node):
            found = _part(graph, source, axis, number, barred)
        if found is not None:
            node.replace_all_uses_with(found)
    graph.graph.eliminate_dead_code()


def _taken(node: Node) -> tuple[Node | None, int, int]:
    """The tensor that a node is one of the parts of, the axis they lie along, and which it is."""
    given: Any = node.args
    if node.target is _aten.select.int:
        source, axis, number = given
    elif node.target is operator.getitem and given[0].target is _aten.unbind.int:
        (source, *rest), number = given[0].args, given[1]
        axis = rest[0] if rest else 0
    else:
        return None, 0, 0
    value = source.meta["val"]
    if not isinstance(number, int):
        return None, 0, 0
    axis %= value.ndim
    size = value.shape[axis]
    if number < 0 and not isinstance(size, int):
        return None, 0, 0
    return source, axis, number % size if number < 0 else number


def _part(
    graph: GraphModule, source: Node, axis: int, number: int, barred: set[Node]
) -> Node | None:
    """The node that is one part of another along an axis, made if need be; None without one."""
    given: Any = source.args
    value = source.meta.get("val")
    if source.op != "call_function" or source in barred or not isinstance(value, Tensor):
        return None
    if source.target is _aten.stack.default:
        along, part = (given[1] if len(given) > 1 else 0), given[0][number]
        return part if along % value.ndim == axis and part not in barred else None
    if source.target in _RESHAPES and given[0].meta["val"].shape == value.shape:
        return _part(graph, given[0], axis, number, barred)
    if source.target is _aten.select_backward.default:
        part, _, along, place = given
        if along % value.ndim != axis or part in barred:
            return None
        return part if place % value.shape[axis] == number else _made(graph, _aten.zeros_like, part)
    if source.target in _ELEMENTWISE and not source.kwargs:
        parts = []
        for one in given:
            alike = isinstance(one, Node) and one.meta["val"].shape == value.shape
            part = _part(graph, one, axis, number, barred) if alike else None
            if part is None:
                return None
            parts.append(part)
        return _made(graph, source.target, *parts)
    return None


def _made(graph: GraphModule, target: Any, *given: Node) -> Node:
    """A node with the tensor that it stands for."""
    target = getattr(target, "default", target)
    node = graph.graph.call_function(target, given)
    node.meta["val"] = target(*(one.meta["val"] for one in given))
    return node
