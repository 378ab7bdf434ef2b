"""A graph of a step and its pull-back, split in two: what the first keeps, the second need not do.

Autograd records a step before it goes back over it, so the nodes of the graph come in that order
too: up to the first that sees a cotangent they are the step's. What later ones use of them is kept
from one half to the other, as autograd would keep it, but for what costs nothing to have again:
views, sizes, and what is the same at every step of a solve.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import Graph, Node

from .passes.hoist import invariant
from .sizes import Size, size_of, sized
from .tracing import Traced, is_view, written

__all__ = ["Split", "sizes_made", "split"]


@dataclass(frozen=True, slots=True)
class Split:
    """Two graphs.

    Attributes:
        forward: from the inputs that are no cotangents to the first results, then what is kept.
        backward: from the inputs but those of the forward half alone, with what is kept before
            the first of those that both have in common, to the other results.
        kept: fakes of what is kept.
    """

    forward: Traced
    backward: Traced
    kept: tuple[Tensor, ...]

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Sizes of what is kept."""
        return tuple(map(size_of, self.kept))

    def bytes_kept(self, batch: int | None) -> int:
        """Size of what is kept, for a batch of so many samples where that is free."""
        return sum(sized(size, batch) for size in self.sizes)


def split(
    traced: Traced, results: int, own: int, before: Collection[int], after: Collection[int]
) -> Split | None:
    """The halves of a graph; nodes of it that compute the same become one.

    Args:
        traced: the graph; the tensors that the field holds are marked.
        results: how many of its results the first half gives.
        own: how many of its inputs come before those that both halves have in common.
        before: places of inputs for the first half alone.
        after: places of those for the second half alone.

    Returns:
        None where the graph writes into a tensor that would be kept, or keeps an input.
    """
    graph = traced.graph.graph
    fixed = invariant(traced.graph, traced.held)
    places = list(graph.find_nodes(op="placeholder"))
    late = {places[i] for i in after}
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    first = next(i for i, node in enumerate(nodes) if late & set(node.all_input_nodes))
    early = set(nodes[:first])
    if any(_writes(node) for node in early):
        return None
    barred = {places[i] for i in before}
    given: Any = graph.output_node().args[0]
    kept = _kept(nodes[first:], early, barred, fixed)
    if kept is None:
        return None
    common = [i for i in range(own, len(places)) if i not in after]
    of_first = [i for i in range(own) if i not in after]
    of_second = [i for i in range(own) if i not in before]
    totals = [i for i in range(own, len(places)) if i in after]
    inputs = [places[i] for i in [*of_first, *common]]
    forward = _part(traced, inputs, [*given[:results], *kept])
    inputs = [places[i] for i in of_second] + kept + [places[i] for i in [*common, *totals]]
    backward = _part(traced, inputs, given[results:])
    return Split(forward, backward, tuple(node.meta["val"] for node in kept))


def _kept(
    late: Sequence[Node], early: set[Node], barred: set[Node], fixed: set[Node]
) -> list[Node] | None:
    """What the late nodes need of the early ones; None where that is a barred input."""
    found: dict[Node, None] = {}
    seen: set[Node] = set()

    def need(node: Node) -> bool:
        if node in seen or node.op == "get_attr":
            return True
        seen.add(node)
        if node.op == "placeholder":
            return node not in barred
        if node not in early:
            return True
        if _is_free(node, fixed):
            return all(map(need, node.all_input_nodes))
        found[node] = None
        return True

    if not all(need(source) for node in late for source in node.all_input_nodes):
        return None
    return list(found)


def _is_free(node: Node, fixed: set[Node]) -> bool:
    """Whether a node costs nothing to have again: a size, a view, a number of the step."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return node.target is not operator.getitem
    numbers = [source.meta.get("val") for source in node.all_input_nodes]
    of_numbers = all(not isinstance(x, Tensor) or x.dim() == 0 for x in (value, *numbers))
    return of_numbers or is_view(node) or node in fixed


def _writes(node: Node) -> bool:
    return next(written(node), None) is not None


def _part(traced: Traced, inputs: list[Node], results: Sequence[Any]) -> Traced:
    """A graph of its own from some nodes to others, with what writes into the former."""
    wanted = _ancestors(traced, inputs, results)
    part, copies = Graph(), {}
    for node in inputs:
        copies[node] = part.placeholder(node.name)
        copies[node].meta = dict(node.meta)
    for node in traced.graph.graph.nodes:
        if node in wanted and node not in copies:
            copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(tuple(copies[node] for node in results))
    places = list(traced.graph.graph.find_nodes(op="placeholder"))
    held = [inputs.index(places[i]) for i in traced.held]
    return traced.part(part, [node.meta["val"] for node in inputs], held)


def _ancestors(traced: Traced, inputs: Sequence[Node], results: Sequence[Node]) -> set[Node]:
    """The nodes from which the results follow, and those that write into the inputs."""
    ends = set(inputs)
    writers = [n for n in traced.graph.graph.nodes if _writes(n) and set(n.all_input_nodes) & ends]
    found: set[Node] = set()
    waiting = [*results, *writers]
    while waiting:
        node = waiting.pop()
        if node in found or node in ends:
            continue
        found.add(node)
        waiting += node.all_input_nodes
    return found


def sizes_made(traced: Traced) -> tuple[Size, ...]:
    """Sizes of the tensors that a graph makes, each once."""
    made = [
        node.meta["val"]
        for node in traced.graph.graph.nodes
        if node.op == "call_function" and not is_view(node)
    ]
    return tuple(dict.fromkeys(size_of(value) for value in made if isinstance(value, Tensor)))
