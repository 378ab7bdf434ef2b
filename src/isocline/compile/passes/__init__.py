"""Rewritings of a traced graph that make it faster on the processor at hand."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch.fx import GraphModule

from .skinny import skinny

__all__ = ["Passes", "apply"]


@dataclass(frozen=True, slots=True)
class Passes:
    """Which rewritings are on.

    Attributes:
        skinny: products with few rows as fused loops.
    """

    skinny: bool = True


def apply(graph: GraphModule, passes: Passes) -> GraphModule:
    """The graph, rewritten; the one given stays as it is."""
    graph = copy.deepcopy(graph)
    if passes.skinny:
        skinny(graph)
    graph.graph.lint()
    graph.recompile()
    return graph
