"""What does not change from step to step is computed once for each solve.

A step sees the tensors that the field holds as inputs that stay the same for a whole solve. What
follows from them alone (a weight turned round in memory, a normalised weight, a network over a
conditioning vector) is taken out of the graph, and what it yields becomes an input. So it is in a
step, in the start, and in the pull-back, where what autograd keeps of it is hoisted as well.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from ..tracing import is_view, shows, written

__all__ = ["hoist", "invariant"]


def invariant(graph: GraphModule, held: Collection[int]) -> set[Node]:
    """The nodes that depend on the inputs at the places `held`, and on nothing else that moves.

    Of those that compute the same (each stage turns the same weight round) one remains.
    """
    fixed: set[Node] = set()
    constant: set[Node] = set()
    for place, node in enumerate(graph.graph.find_nodes(op="placeholder")):
        if place in held:
            fixed.add(node)
    known: dict[Any, Node] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            constant.add(node)
        if node.op != "call_function" or not _pure(node):
            continue
        sources = set(node.all_input_nodes)
        if sources <= constant:
            constant.add(node)
        elif sources <= fixed | constant:
            same = known.setdefault(_expression(node), node)
            if same is node:
                fixed.add(node)
            else:
                node.replace_all_uses_with(same)
                graph.graph.erase_node(node)
    return fixed


def _expression(node: Node) -> Any:
    """What a node computes: equal for two nodes, equal values."""
    named = tuple(sorted((key, repr(value)) for key, value in node.kwargs.items()))
    return node.target, repr(node.args), named


def hoist(graph: GraphModule, held: Sequence[int]) -> GraphModule | None:
    """Take what is invariant out of `graph`, in place.

    Args:
        graph: its placeholders at the places `held` follow one another.
        held: the places.

    Returns:
        What computes, from the held inputs, those that are to be given in their place; None if
        they stay as they are.
    """
    graph.graph.eliminate_dead_code()
    fixed = invariant(graph, held)
    places = list(graph.graph.find_nodes(op="placeholder"))
    kept = [places[i] for i in held]
    found = [node for node in graph.graph.nodes if node in fixed and _wanted(node, fixed)]
    if not found:
        return None
    before = _computing(graph, kept, found)
    with graph.graph.inserting_after(kept[-1]):
        for node in reversed(found):
            new = graph.graph.placeholder(f"hoisted_{node.name}")
            new.meta = dict(node.meta)
            node.replace_all_uses_with(new)
    for node in reversed(list(graph.graph.nodes)):
        if node in fixed and not node.users and node.op != "placeholder":
            graph.graph.erase_node(node)
    return before


def _computing(graph: GraphModule, kept: list[Node], found: list[Node]) -> GraphModule:
    """A graph of its own for the nodes `found`; it hands the inputs `kept` on before them."""
    part = Graph()
    copies: dict[Node, Any] = {}
    for node in kept:
        copies[node] = part.placeholder(node.name)

    def copy(node: Node) -> Node:
        if node not in copies:
            for source in node.all_input_nodes:
                copy(source)
            copies[node] = part.node_copy(node, copies.__getitem__)
        copied: Node = copies[node]
        return copied

    results = [copies[node] for node in kept] + [copy(node) for node in found]
    part.output(tuple(results))
    return GraphModule(graph, part)


def _wanted(node: Node, fixed: set[Node]) -> bool:
    """Whether a node is to be an input: no view, a tensor, and used by something that moves."""
    if node.op != "call_function" or is_view(node) or not isinstance(node.meta.get("val"), Tensor):
        return False
    return _moves(node, fixed)


def _moves(node: Node, fixed: set[Node]) -> bool:
    """Whether something that moves uses a node, itself or a view of it."""
    return any(user not in fixed or (is_view(user) and _moves(user, fixed)) for user in node.users)


def _pure(node: Node) -> bool:
    """Whether a node may be computed once for all: tensors, and nothing is written to."""
    if node.target is operator.getitem:
        return not _written_to(node)
    schema = getattr(node.target, "_schema", None)
    if schema is None or schema.is_mutable or _written_to(node):
        return False
    kinds = [str(one.type) for one in schema.returns]
    return bool(kinds) and all(kind in ("Tensor", "List[Tensor]") for kind in kinds)


def _written_to(node: Node) -> bool:
    """Whether something writes into a node or a view of it: it is another value at each time."""
    return any(node in written(user) or (shows(user) and _written_to(user)) for user in node.users)
