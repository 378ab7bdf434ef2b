"""Rewritings of graphs change results by rounding alone, and can be switched off."""

import operator
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from isocline.compile.passes import Passes, Rewritten, apply
from isocline.compile.tracing import Traced, trace

aten = torch.ops.aten
MM = (aten.mm.default, aten.addmm.default)
OURS = (torch.ops.isocline.small_product.default, torch.ops.isocline.small_products.default)
CHAIN = torch.ops.isocline.small_layers.default
NONE = Passes(columns=False, products=False, layers=False, skinny=False, hoist=False, tanh=False)
APART = Passes(layers=False)


def count(graph: GraphModule | None, *targets: object) -> int:
    return 0 if graph is None else sum(node.target in targets for node in graph.graph.nodes)


def layers(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor) -> tuple[Tensor, ...]:
    return (torch.tanh(torch.nn.functional.linear(x, w1, b1)) @ w2,)


def outer(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (x.t() @ y,)


def inputs(rows: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    shapes = ((rows, 7), (64, 7), (64,), (64, 5))
    return [torch.randn(*shape, dtype=dtype) for shape in shapes]


def run(made: Rewritten, given: Sequence[Tensor], held: range) -> tuple[Tensor, ...]:
    """What a rewritten graph computes from the inputs of the one that it was made of."""
    rest = list(given)
    if made.before is not None:
        rest[held.start : held.stop] = made.before(*rest[held.start : held.stop])
    return made.graph(*rest)


def alike(made: Rewritten, traced: Traced, given: Sequence[Tensor], held: range) -> None:
    """The same results as before up to rounding."""
    eps = torch.finfo(given[0].dtype).eps
    found, wanted = run(made, given, held), traced.graph(*given)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=0, atol=16 * eps * other.abs().max().item())


# --- loops for products of one row -----------------------------------------------------------


def test_products_of_one_row_become_loops() -> None:
    given = inputs(1)
    traced = trace(layers, given)
    fast = apply(traced.graph, Passes(products=False, layers=False, tanh=False))
    assert (count(traced.graph, *MM), count(fast.graph, *MM)) == (2, 0)
    alike(fast, traced, given, range(0))


def test_outer_products_become_loops() -> None:
    """The gradient of a weight at batch 1."""
    given = [torch.randn(1, 7), torch.randn(1, 4)]
    traced = trace(outer, given)
    fast = apply(traced.graph, Passes(products=False))
    assert (count(traced.graph, *MM), count(fast.graph, *MM)) == (1, 0)
    torch.testing.assert_close(fast.graph(*given), traced.graph(*given), rtol=0, atol=0)


# --- kernels of our own ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 2, 8, 128])
def test_products_go_to_our_kernels(rows: int, dtype: torch.dtype) -> None:
    given = inputs(rows, dtype)
    traced = trace(layers, given)
    fast = apply(traced.graph, APART, range(1, 4))
    assert (count(fast.graph, *MM), count(fast.graph, *OURS)) == (0, 2)
    alike(fast, traced, given, range(1, 4))


def test_products_over_a_batch_of_any_size() -> None:
    traced = trace(layers, inputs(6), dynamic=[0], batch=6)
    fast = apply(traced.graph, Passes(), range(1, 4))
    assert (count(fast.graph, *MM), count(fast.graph, *OURS)) == (0, 2)
    for rows in (6, 2, 131):
        alike(fast, traced, inputs(rows), range(1, 4))


@pytest.mark.parametrize("shapes", [((6, 3), (3, 5)), ((200, 3), (3, 5)), ((1, 4), (4, 9))])
def test_short_sums_are_written_out(shapes: tuple[tuple[int, ...], ...]) -> None:
    given = [torch.randn(*shape) for shape in shapes]
    traced = trace(lambda a, b: (a @ b, a.t() @ (a @ b)), given)
    fast = apply(traced.graph, Passes())
    assert count(fast.graph, *MM) == 0
    alike(fast, traced, given, range(0))


def test_large_and_foreign_products_stay() -> None:
    large = [torch.randn(8, 300), torch.randn(300, 300)]
    assert count(apply(trace(operator_matmul, large).graph, Passes()).graph, *MM) == 1
    half = [torch.randn(8, 8, dtype=torch.bfloat16) for _ in range(2)]
    assert count(apply(trace(operator_matmul, half).graph, Passes()).graph, *MM) == 1


def operator_matmul(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (operator.matmul(x, y),)


def stages(w: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """The gradient of a weight that three layers share."""
    with torch.enable_grad():
        weight = w.detach().requires_grad_()
        y = x
        for _ in range(3):
            y = torch.sin(torch.nn.functional.linear(y, weight))
        return torch.autograd.grad(y.square().sum(), weight)


@pytest.mark.parametrize("width", [3, 4, 9, 33])
def test_sums_of_gradients_become_one_operator(width: int) -> None:
    given = [torch.randn(width, width) / width**0.5, torch.randn(19, width)]
    traced = trace(stages, given, dynamic=[1], batch=19)
    fast = apply(traced.graph, Passes(), range(1))
    assert count(fast.graph, OURS[1]) == 1
    alike(fast, traced, given, range(1))


# --- chains of layers --------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [torch.tanh, torch.relu, torch.sin])
@pytest.mark.parametrize("rows", [1, 7])
def test_chains_of_layers_become_one_operator(activation: object, rows: int) -> None:
    """What is between two layers and is not known to the kernel ends a chain."""
    net = torch.nn.Sequential(*(torch.nn.Linear(5, 5, bias=i != 1) for i in range(4)))

    def body(x: Tensor, *held: Tensor) -> tuple[Tensor, ...]:
        names = dict(zip(dict(net.named_parameters()), held, strict=True))
        for i in range(4):
            x = torch.nn.functional.linear(x, names[f"{i}.weight"], names.get(f"{i}.bias"))
            x = activation(x) if i < 3 else x  # type: ignore[operator]
        return (x,)

    given = [torch.randn(rows, 5), *(p.detach() for p in net.parameters())]
    traced = trace(body, given)
    fast = apply(traced.graph, Passes(), range(1, len(given)))
    assert count(fast.graph, CHAIN) == (activation is not torch.sin)
    alike(fast, traced, given, range(1, len(given)))


def test_what_is_used_inside_a_chain_as_well_is_kept() -> None:
    def body(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        y = (x @ w).tanh()
        z = (y @ w).tanh()
        return ((z @ w) + y, z[1] * 2, y[:1, 1:] @ w[1:])

    given = [torch.randn(2, 6), torch.randn(6, 6)]
    traced = trace(body, given)
    fast = apply(traced.graph, Passes(), range(1, 2))
    assert (count(fast.graph, CHAIN), count(fast.graph, *OURS)) == (1, 1)
    alike(fast, traced, given, range(1, 2))


def pulled_back(activation: Any) -> Any:
    def body(x: Tensor, w: Tensor, b: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        """Two stages over layers, and their gradients."""
        with torch.enable_grad():
            leaves = [one.detach().requires_grad_() for one in (x, w, b, v)]
            y = leaves[0]
            for _ in range(2):
                z = activation(torch.nn.functional.linear(y, *leaves[1:3]))
                z = activation(torch.nn.functional.linear(z, *leaves[1:3]))
                y = y + 0.5 * (z @ leaves[3])
            return (y.detach(), *torch.autograd.grad(y.square().sum(), leaves))

    return body


@pytest.mark.parametrize("activation", [torch.tanh, torch.relu])
@pytest.mark.parametrize(("rows", "width"), [(1, 4), (1, 19), (3, 9), (7, 8)])
def test_the_way_back_through_layers_is_a_chain_too(activation: Any, rows: int, width: int) -> None:
    shapes = ((rows, width), (width, width), (width,), (width, width))
    given = [torch.randn(shape) / width**0.5 for shape in shapes]
    traced = trace(pulled_back(activation), given)
    fast = apply(traced.graph, Passes(), range(1, 4))
    assert count(fast.graph, CHAIN) == 4
    assert count(fast.graph, aten.tanh_backward.default, aten.threshold_backward.default) == 0
    alike(fast, traced, given, range(1, 4))


def written_between(x: Tensor, w: Tensor, u: Tensor) -> tuple[Tensor, ...]:
    y = (x @ w).tanh()
    y.mul_(2.0)
    z = (y @ u).tanh()
    return (z @ w, y)


def a_view_written(x: Tensor, w: Tensor, u: Tensor) -> tuple[Tensor, ...]:
    y = (x @ w).tanh()
    y[0].mul_(2.0)
    return ((y @ u).tanh() @ w, y)


def weight_from_inside(x: Tensor, w: Tensor, u: Tensor) -> tuple[Tensor, ...]:
    y = (x @ w).tanh()
    return ((y @ (u * y.sum())).tanh() @ w,)


def weight_is_inside(x: Tensor, w: Tensor, u: Tensor) -> tuple[Tensor, ...]:
    y = (x @ w).tanh()
    return ((y @ y.t()).tanh() @ y @ u,)


def used_before(x: Tensor, w: Tensor, u: Tensor) -> tuple[Tensor, ...]:
    y = (x @ w).tanh()
    other = y.exp()
    return (other, (y @ (u * other.sum())).tanh() @ w)


@pytest.mark.parametrize(
    "body", [written_between, a_view_written, weight_from_inside, weight_is_inside, used_before]
)
def test_a_chain_reads_what_its_layers_read(body: Any) -> None:
    """Not what was there before a write, and nothing that is not there yet."""
    given = [torch.randn(5, 5) for _ in range(3)]
    traced = trace(body, given)
    alike(apply(traced.graph, Passes(), range(1, 3)), traced, given, range(1, 3))


# --- what does not change from step to step ---------------------------------------------------


def normalised(x: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    weight = g[:, None] * v / v.norm(dim=1, keepdim=True)
    return (torch.sin(x @ weight.t()) @ weight,)


def test_what_depends_on_held_tensors_alone_is_hoisted() -> None:
    given = [torch.randn(20, 6), torch.randn(9, 6), torch.randn(9)]
    traced = trace(normalised, given)
    fast = apply(traced.graph, Passes(), range(1, 3))
    called = [node for node in fast.graph.graph.nodes if node.op == "call_function"]
    names = {str(node.target) for node in called}
    assert not any("norm" in name or "div" in name for name in names)
    alike(fast, traced, given, range(1, 3))


def test_nothing_that_moves_is_hoisted() -> None:
    """Time, state and what is written to are no part of what is done once."""
    given = [torch.randn(20, 6), torch.randn(9, 6), torch.zeros(9, 6)]

    def body(x: Tensor, w: Tensor, total: Tensor) -> tuple[Tensor, ...]:
        total.add_(w.exp())
        return ((x @ w.t()).cos(), total + w.exp())

    traced = trace(body, given, written=1)
    fast = apply(traced.graph, Passes(), range(1, 2))
    assert fast.before is not None
    assert count(fast.before, aten.exp.default) == 1
    assert count(fast.graph, aten.exp.default) == 0
    assert count(fast.graph, aten.add_.Tensor) == 1
    one, other = ([*given[:2], torch.zeros(9, 6)] for _ in range(2))
    found, wanted = run(fast, one, range(1, 2)), traced.graph(*other)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(one[2], other[2])


def test_what_is_written_to_is_not_hoisted() -> None:
    """It would be written to again at every step."""

    def body(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        one, other = w.clone(), w.clone()
        one.mul_(2)
        other[0].add_(1)
        return (x @ one + x @ other,)

    given = [torch.randn(20, 6), torch.randn(6, 6)]
    traced = trace(body, given)
    fast = apply(traced.graph, Passes(), range(1, 2))
    held = list(given[1:]) if fast.before is None else list(fast.before(*given[1:]))
    wanted = traced.graph(*given)
    for _ in range(3):
        torch.testing.assert_close(fast.graph(given[0], *held), wanted)


def test_repeats_are_hoisted_once() -> None:
    given = [torch.randn(20, 6), torch.randn(6, 6)]
    traced = trace(lambda x, w: ((x @ w.t()).sin() @ w.t(),), given)
    fast = apply(traced.graph, Passes(), range(1, 2))
    assert count(fast.before, aten.clone.default) == 1
    alike(fast, traced, given, range(1, 2))


# --- tanh ------------------------------------------------------------------------------------


def test_tanh_is_within_rounding() -> None:
    """Relatively, also where it is small; and it never leaves [-1, 1]."""
    near = torch.logspace(-30, 1.5, 20001)
    x = torch.cat([near, -near, torch.tensor([0.0, -0.0, torch.inf, -torch.inf])])
    traced = trace(lambda x: (x.tanh(),), [x])
    fast = apply(traced.graph, Passes())
    assert count(fast.graph, aten.tanh.default) == 0
    (found,) = fast.graph(x)
    exact = x.double().tanh()
    assert ((found - exact).abs() <= 8 * 2**-24 * exact.abs()).all()
    assert found.abs().max() <= 1
    assert torch.equal(found[x == 0].signbit(), x[x == 0].signbit())
    assert fast.graph(torch.full_like(x, torch.nan))[0].isnan().all()


def test_tanh_in_double_precision_stays() -> None:
    traced = trace(lambda x: (x.tanh(),), [torch.randn(3, dtype=torch.float64)])
    assert count(apply(traced.graph, Passes()).graph, aten.tanh.default) == 1


# --- columns -----------------------------------------------------------------------------------

TAKEN = (aten.unbind.int, aten.select.int, operator.getitem)


def by_unbind(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    one, two = torch.stack([x.sin(), x * y], -1).unbind(-1)
    return (one - 2 * two,)


def by_select(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    both = torch.stack([x, y], 1).view(x.shape[0], 2)
    return (both[:, -1] * both[..., 0],)


def of_a_sum(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    one, two = torch.stack([x, y], 1), torch.stack([y * y, x], 1)
    return (-(one + two) * one).unbind(1)


def of_a_gradient(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_(), y.detach().requires_grad_()]
        both = torch.stack(leaves, 1)
        return torch.autograd.grad((both[:, 0] * both[:, 1].sin()).sum(), leaves)


@pytest.mark.parametrize("body", [by_unbind, by_select, of_a_sum, of_a_gradient])
@pytest.mark.parametrize("batch", [None, 5])
def test_what_is_stacked_is_not_taken_apart_again(body: Any, batch: int | None) -> None:
    given = [torch.randn(5, dtype=torch.float64) for _ in range(2)]
    traced = trace(body, given, range(2) if batch else (), batch)
    made = apply(traced.graph, Passes())
    assert count(traced.graph, *TAKEN)
    assert not count(made.graph, *TAKEN)
    alike(made, traced, given, range(0))


def test_other_axes_and_what_is_written_to_stay_as_they_are() -> None:
    def across(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (torch.stack([x, y], 1)[1] * 2,)

    def part_written(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        part = x * 2
        both = torch.stack([part, y], 1)
        part.add_(1.0)
        return (both[:, 0] + part,)

    def whole_written(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        both = torch.stack([x, y], 1)
        both.mul_(2.0)
        return (both[:, 0] + x,)

    def view_written(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        both = torch.stack([x, y], 1)
        both[:, 0].mul_(2.0)
        return (both[:, 0] + x, both[:, 1])

    given = [torch.randn(5, dtype=torch.float64) for _ in range(2)]
    for body in (across, part_written, whole_written, view_written):
        traced = trace(body, given)
        before = [x.clone() for x in given]
        alike(apply(traced.graph, Passes()), traced, before, range(0))
        assert all(map(torch.equal, given, before))


def test_they_can_be_switched_off() -> None:
    given = inputs(1)
    traced = trace(layers, given)
    plain = apply(traced.graph, NONE, range(1, 4))
    assert plain.before is None
    assert plain.graph.code == traced.graph.code
