"""Dense layers one after another, over a few rows, as one operator.

What a chain of layers yields inside is kept in a buffer on the stack, where each would need a
tensor of its own. In a pull-back the gradient needs it, so there the layers stay apart.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.fx import GraphModule, Node

from .operators import ACTIVATIONS
from .products import FEW, LARGEST, call, operand

__all__ = ["layers"]

_DEEPEST = 16
_aten = torch.ops.aten
_layers = torch.ops.isocline.small_layers.default


class _Layer(NamedTuple):
    """A layer in a graph: from `x` by `weight` and `bias` to `last`, a product or what follows."""

    x: Node
    weight: Node
    bias: Node | None
    activation: int
    last: Node


def layers(graph: GraphModule) -> None:
    """Rewrite the chains of layers of `graph` in place."""
    found = [layer for node in graph.graph.nodes if (layer := _layer(node)) is not None]
    following = {layer.x: layer for layer in found if len(layer.x.users) == 1}
    inner = {following[layer.last].last for layer in found if layer.last in following}
    for first in found:
        if first.last in inner:
            continue  # it is in another chain, or begins none
        chain = [first]
        while len(chain) < _DEEPEST and chain[-1].last in following:
            chain.append(following[chain[-1].last])
        if len(chain) > 1:
            _replace(graph, chain)
    graph.graph.eliminate_dead_code()


def _replace(graph: GraphModule, chain: list[_Layer]) -> None:
    """One operator for a chain."""
    last = chain[-1].last
    parts: list[Node] = []
    kinds: list[int] = []
    with graph.graph.inserting_before(last):
        x, x_turned = operand(chain[0].x)
        if x_turned:
            return
        for layer in chain:
            weight, turned = operand(layer.weight)
            parts += [weight] if layer.bias is None else [weight, layer.bias]
            kinds.append(int(turned) + 2 * (layer.bias is not None) + 4 * layer.activation)
        found = call(_layers, x, parts, kinds)
    found.meta = dict(last.meta)
    last.replace_all_uses_with(found)


def _layer(node: Node) -> _Layer | None:
    """The layer of which a node is the product, if there is one."""
    given: Any = node.args
    if node.target is _aten.mm.default:
        bias, (x, weight) = None, given
    elif node.target is _aten.addmm.default and not node.kwargs:
        bias, x, weight = given
        if bias.meta["val"].shape != weight.meta["val"].shape[1:] or not _contiguous(bias):
            return None
    else:
        return None
    rows, sizes = x.meta["val"].shape[0], weight.meta["val"].shape
    small = isinstance(rows, int) and rows < FEW
    known = all(isinstance(size, int) and size <= LARGEST for size in sizes)
    if not (small and known and x.meta["val"].dtype is torch.float32):
        return None
    users = list(node.users)
    number = ACTIVATIONS.get(users[0].target, 0) if len(users) == 1 else 0  # type: ignore[call-overload]
    return _Layer(x, weight, bias, number, users[0] if number else node)


def _contiguous(node: Node) -> bool:
    return bool(node.meta["val"].is_contiguous())
