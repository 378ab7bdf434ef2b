"""What is hoisted out of the steps of a solve, as plain data: to be kept, and made a graph again.

Such a graph calls operators of ATen on tensors that the field holds, and nothing else. So a list of
their names and arguments is all of it, which can be read from a file without running any code.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

__all__ = ["Unstorable", "restored", "stored"]

_NAMESPACES = ("aten", "prims", "isocline")

_NAMED: dict[str, type] = {
    "dtype": torch.dtype,
    "memory_format": torch.memory_format,
    "layout": torch.layout,
}
"""Kinds of arguments that are attributes of torch."""


class Unstorable(Exception):  # noqa: N818 (a reason)
    """A graph has something in it that has no name, or plain data are not such a graph."""


def stored(graph: GraphModule) -> dict[str, Any]:
    """A graph as plain data, of which JSON makes a text.

    Raises:
        Unstorable: if it does more than to call operators on its inputs.
    """
    places: dict[Node, int] = {}
    calls: list[Any] = []
    results: list[Any] = []
    for node in graph.graph.nodes:
        if node.op == "output":
            results = [_written(one, places) for one in node.args[0]]
            continue
        if node.op == "call_function":
            arguments = [_written(one, places) for one in node.args]
            named = {name: _written(one, places) for name, one in node.kwargs.items()}
            calls.append([_name(node.target), arguments, named])
        elif node.op != "placeholder":
            raise Unstorable(f"a node {node.op}")
        places[node] = len(places)
    return {"inputs": len(places) - len(calls), "calls": calls, "results": results}


def restored(found: Any) -> GraphModule:
    """The graph of what `stored` made.

    Raises:
        Unstorable: if `found` is nothing of the kind.
    """
    graph = Graph()
    try:
        nodes = [graph.placeholder(f"held_{i}") for i in range(found["inputs"])]
        for name, arguments, named in found["calls"]:
            given = tuple(_read(one, nodes) for one in arguments)
            by_name = {key: _read(one, nodes) for key, one in named.items()}
            nodes.append(graph.call_function(_operator(name), given, by_name))
        graph.output(tuple(_read(one, nodes) for one in found["results"]))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise Unstorable(str(error)) from error
    return GraphModule(nn.Module(), graph)


def _name(target: Any) -> str:
    if target is operator.getitem:
        return "getitem"
    name = str(target)
    if _operator(name) is not target:
        raise Unstorable(f"a call of {name}")
    return name


def _operator(name: str) -> Any:
    """The operator of a name such as "aten.mul.Tensor"; only such as write into nothing."""
    if name == "getitem":
        return operator.getitem
    space, _, rest = name.partition(".")
    if space not in _NAMESPACES:
        raise Unstorable(f"a call of {name}")
    try:
        found = operator.attrgetter(rest)(getattr(torch.ops, space))
    except AttributeError as error:
        raise Unstorable(f"a call of {name}") from error
    if not isinstance(found, torch._ops.OpOverload) or found._schema.is_mutable:
        raise Unstorable(f"a call of {name}")
    return found


def _written(value: Any, places: dict[Node, int]) -> Any:
    """An argument as JSON knows it."""
    if isinstance(value, Node):
        return {"of": places[value]}
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, (list, tuple)):
        return [_written(one, places) for one in value]
    if type(value) is torch.device:
        return {"device": str(value)}
    for kind, known in _NAMED.items():
        if isinstance(value, known):
            return {kind: str(value).removeprefix("torch.")}
    raise Unstorable(f"an argument {type(value).__name__}")


def _read(value: Any, nodes: list[Node]) -> Any:
    """The argument of what `_written` made."""
    if isinstance(value, list):
        return [_read(one, nodes) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, what),) = value.items()
    if kind == "of":
        if not 0 <= what < len(nodes):
            raise Unstorable("a node that is not there yet")
        return nodes[what]
    if kind == "float":
        return float(what)
    if kind == "device":
        return torch.device(what)
    found = getattr(torch, what)
    if not isinstance(found, _NAMED[kind]):
        raise Unstorable(f"a {kind} {what}")
    return found
