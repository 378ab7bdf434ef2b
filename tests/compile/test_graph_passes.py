"""Rewritings of graphs change results by rounding alone, and can be switched off."""

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from isocline.compile.passes import Passes, apply
from isocline.compile.tracing import trace

MM = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


def products(graph: GraphModule) -> int:
    return sum(node.target in MM for node in graph.graph.nodes)


def layers(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor) -> tuple[Tensor, ...]:
    return (torch.tanh(torch.nn.functional.linear(x, w1, b1)) @ w2,)


def outer(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (x.t() @ y,)


def inputs(rows: int) -> list[Tensor]:
    return [torch.randn(*shape) for shape in ((rows, 3), (64, 3), (64,), (64, 5))]


def test_products_of_one_row_become_loops() -> None:
    given = inputs(1)
    traced = trace(layers, given)
    fast = apply(traced.graph, Passes(skinny=True))
    assert products(traced.graph) == 2
    assert products(fast) == 0
    torch.testing.assert_close(fast(*given), traced.graph(*given), rtol=1e-6, atol=1e-6)


def test_outer_products_become_loops() -> None:
    """The gradient of a weight at batch 1."""
    given = [torch.randn(1, 7), torch.randn(1, 4)]
    traced = trace(outer, given)
    fast = apply(traced.graph, Passes(skinny=True))
    assert (products(traced.graph), products(fast)) == (1, 0)
    torch.testing.assert_close(fast(*given), traced.graph(*given), rtol=0, atol=0)


@pytest.mark.parametrize("rows", [2, 128])
def test_products_of_more_rows_stay(rows: int) -> None:
    assert products(apply(trace(layers, inputs(rows)).graph, Passes())) == 2


def test_products_over_a_batch_of_any_size_stay() -> None:
    traced = trace(layers, inputs(6), dynamic=[0], batch=6)
    assert products(apply(traced.graph, Passes())) == 2
    given = inputs(9)
    torch.testing.assert_close(traced.graph(*given), layers(*given))


def test_it_can_be_switched_off() -> None:
    traced = trace(layers, inputs(1))
    assert products(apply(traced.graph, Passes(skinny=False))) == 2
