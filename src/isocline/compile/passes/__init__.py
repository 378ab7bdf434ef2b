"""Rewritings of a traced graph that make it faster on the processor at hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch.fx import GraphModule

from .columns import columns
from .hoist import hoist, invariant
from .layers import layers
from .operators import shims
from .products import products
from .skinny import skinny
from .tanh import rational_tanh

__all__ = ["Passes", "Rewritten", "apply", "shims"]


@dataclass(frozen=True, slots=True)
class Passes:
    """Which rewritings are on.

    Attributes:
        columns: what is stacked and taken apart again is not stacked.
        products: small products by kernels of our own.
        layers: dense layers one after another over a few rows as one operator.
        skinny: products with few rows as fused loops.
        hoist: what does not change from step to step is computed once for each solve.
        tanh: tanh as a rational function.
        small: small graphs of known sizes as one function of our own (`compile/small/`), in which
            products are calls of kernels, and `products` and `skinny` do nothing.
    """

    columns: bool = True
    products: bool = True
    layers: bool = True
    skinny: bool = True
    hoist: bool = True
    tanh: bool = True
    small: bool = True


class Rewritten(NamedTuple):
    """A graph, and what it is to be given.

    Attributes:
        graph: the graph.
        before: from the inputs that stay the same for a whole solve, what is to be given in their
            place; None where that is they.
    """

    graph: GraphModule
    before: GraphModule | None


def apply(graph: GraphModule, passes: Passes, held: Sequence[int] = ()) -> Rewritten:
    """The graph, rewritten; the one given stays as it is.

    Args:
        graph: over ATen.
        passes: which rewritings.
        held: places of inputs that stay the same for a whole solve; they follow one another.
    """
    graph = copy.deepcopy(graph)
    held = held if passes.hoist else ()
    if passes.columns:
        columns(graph)
    if passes.layers:
        layers(graph)
    if passes.products:
        products(graph, invariant(graph, held))
    before = hoist(graph, held)
    if passes.skinny:
        skinny(graph)
    if passes.tanh:
        rational_tanh(graph)
    graph.graph.lint()
    graph.recompile()
    return Rewritten(graph, before)
