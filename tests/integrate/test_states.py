"""States of every structure, shape and dtype.

Every method meets every option; of their combinations the quick suite runs a share (`pairwise`).

One method of each kind is tried at once, the others are slow (`one_of_each_kind`).
"""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import isocline as ic

from ..known import SOLVERS, either, one_of_each_kind, promise, swing, swung, within_reach

GRAD = pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
EVERY = pytest.mark.parametrize("method", one_of_each_kind(SOLVERS))
Method = type[ic.solvers.ExplicitRungeKutta]
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


class Pair(NamedTuple):
    place: Tensor
    rest: Any


def tree(x: Tensor) -> Any:
    return Pair(x, [x[..., :1] * 2, {"a": (x[0],), "b": x.sum()}])


def tree_map(function: Any, state: Any) -> Any:
    place, (doubled, inner) = state
    return Pair(
        function(place),
        [function(doubled), {"a": (function(inner["a"][0]),), "b": function(inner["b"])}],
    )


@GRAD
@pytest.mark.parametrize("dense", [False, True])
def test_a_nested_state_comes_back_in_its_structure(grad: bool, dense: bool) -> None:
    y0 = tree(torch.arange(1.0, 7.0, dtype=torch.float64).reshape(3, 2))

    def field(t: Tensor, y: Any) -> Any:
        assert type(y) is Pair
        assert type(y.rest) is list
        return tree_map(lambda leaf: -leaf, y)

    with torch.set_grad_enabled(grad):
        sol = ic.solve(field, y0, 0, 1, save=ic.SaveAt(t1=True, dense=dense), **TIGHT)
    end = sol(1.0) if dense else tree_map(lambda leaf: leaf[0], sol.ys)
    assert type(end) is Pair
    exact = tree_map(lambda leaf: leaf * torch.exp(torch.tensor(-1.0, dtype=torch.float64)), y0)
    torch.testing.assert_close(tuple(end), tuple(exact), rtol=1e-7, atol=0)


@GRAD
def test_keys_decide_which_leaf_is_which_not_their_order(grad: bool) -> None:
    def field(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"v": -y["x"], "x": y["v"]}

    y0 = {"x": torch.ones(1, dtype=torch.float64), "v": torch.zeros(1, dtype=torch.float64)}
    with torch.set_grad_enabled(grad):
        sol = ic.solve(field, y0, 0, 1, **TIGHT)
    one = torch.ones(1, 1, dtype=torch.float64)
    torch.testing.assert_close(sol.ys, {"x": one.cos(), "v": -one.sin()}, rtol=0, atol=1e-7)


def test_keys_decide_in_tolerances_too() -> None:
    y0 = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0, 0.0])}

    def steps(tolerance: dict[str, float]) -> int:
        sol = ic.solve(
            lambda t, y: {"a": swing(t, y["a"]), "b": swing(5 * t, y["b"])},
            y0, 0, 3, rtol=tolerance, atol=tolerance,
        )  # fmt: skip
        return sol.stats.steps_accepted

    assert steps({"a": 1e-5, "b": 1.0}) == steps({"b": 1.0, "a": 1e-5})


@pytest.mark.pairwise
@EVERY
@GRAD
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_a_complex_state_turns(method: Method, grad: bool, dtype: torch.dtype) -> None:
    """q' = i p, p' = i q, as four real equations have it: bit by bit the same steps."""
    real = dtype.to_real()
    ts = [0.5, 1.0]
    arguments = {**either(method, 1), "rtol": 1e-5, "atol": 1e-5, "save": ic.SaveAt(ts=ts)}
    with torch.set_grad_enabled(grad):
        y0 = torch.tensor([1.0, 0.0], dtype=dtype)
        sol = ic.solve(lambda t, y: 1j * y.flip(0), y0, 0, 1, **arguments)
        four = ic.solve(
            lambda t, y: torch.stack([-y[3], y[2], -y[1], y[0]]),
            torch.tensor([1.0, 0, 0, 0], dtype=real), 0, 1, **arguments,
        )  # fmt: skip
    assert sol.ys.dtype == dtype
    if not method().adaptive:
        torch.testing.assert_close(torch.view_as_real(sol.ys).flatten(1), four.ys)
    else:
        t = torch.tensor(ts, dtype=torch.float64)
        exact = torch.stack([t.cos() + 0j, 1j * t.sin()], -1).to(dtype)
        torch.testing.assert_close(sol.ys, exact, rtol=0, atol=2e-4)


@GRAD
def test_leaves_of_different_dtypes_keep_theirs(grad: bool) -> None:
    dtypes = [torch.float32, torch.float64, torch.complex64, torch.bfloat16]
    y0 = [torch.ones(2, dtype=dtype) for dtype in dtypes]

    def field(t: Tensor, y: list[Tensor]) -> list[Tensor]:
        assert [leaf.dtype for leaf in y] == dtypes
        assert t.dtype == torch.float64
        return [-leaf for leaf in y]

    with torch.set_grad_enabled(grad):
        sol = ic.solve(field, y0, 0, 1, rtol=1e-3, atol=1e-3)
    assert [leaf.dtype for leaf in sol.ys] == dtypes
    for leaf in sol.ys:
        torch.testing.assert_close(
            leaf.to(torch.complex128).real,
            torch.full((1, 2), -1.0, dtype=torch.float64).exp(), rtol=0, atol=5e-3,
        )  # fmt: skip


@GRAD
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("boxed", [False, True])
def test_half_precision_is_summed_in_single(grad: bool, dtype: torch.dtype, boxed: bool) -> None:
    """100 increments of 1e-2 each: next to 64, half precision would round every one away."""
    seen = set()

    def field(t: Tensor, y: Any) -> Any:
        inner = y[0] if boxed else y
        seen.add((t.dtype, inner.dtype))
        return [torch.ones_like(inner)] if boxed else torch.ones_like(inner)

    start = torch.full((2,), 64.0, dtype=dtype)
    with torch.set_grad_enabled(grad):
        sol = ic.solve(
            field, [start] if boxed else start, 0, 1, solver="euler", dt0=1e-2,
            save=ic.SaveAt(t1=True, dense=True),
        )  # fmt: skip
    ends = [sol.ys[0][0], sol(1.0)[0]] if boxed else [sol.ys[0], sol(1.0)]
    assert sol.stats.steps_accepted == 100
    assert seen == {(torch.float32, dtype)}
    for end in ends:
        assert end.dtype == dtype
        assert torch.equal(end, torch.full((2,), 65.0, dtype=dtype))


@EVERY
@GRAD
def test_there_and_back_again(method: Method, grad: bool) -> None:
    y0 = torch.tensor([[1.0, 0.0], [0.3, -2.0]], dtype=torch.float64)
    tolerances = within_reach(method, 1e-9, steps=50)
    arguments = {**either(method, 1), **tolerances}
    accuracy = 100 * promise(method, tolerances["rtol"])
    if not method().adaptive:
        arguments["dt0"] = 2e-2
        accuracy = max(10 * 2e-2 ** method().order, 1e-7)
    with torch.set_grad_enabled(grad):
        there = ic.solve(swing, y0, 0.2, 1.2, **arguments).ys[-1]
        back = ic.solve(swing, there, 1.2, 0.2, **arguments).ys[-1]
    torch.testing.assert_close(back, y0, rtol=0, atol=accuracy)
    torch.testing.assert_close(there[0], swung(1.2, t0=0.2), rtol=0, atol=accuracy)


@GRAD
@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 1), (4, 3), (2, 3, 1, 2)], ids=str)
def test_every_shape(grad: bool, shape: tuple[int, ...]) -> None:
    y0 = torch.rand(shape, dtype=torch.float64)
    seen = set()

    def field(t: Tensor, y: Tensor) -> Tensor:
        seen.add(y.shape)
        return -y

    save = ic.SaveAt(t0=True, ts=[0.5], t1=True, dense=True)
    with torch.set_grad_enabled(grad):
        sol = ic.solve(field, y0, 0, 1, save=save, **TIGHT)
    assert seen == {y0.shape}
    assert sol.ys.shape == (3, *shape)
    assert sol(0.5).shape == shape
    torch.testing.assert_close(
        sol.ys[-1], y0 * torch.tensor(-1.0).double().exp(), rtol=1e-7, atol=0
    )


@GRAD
@pytest.mark.parametrize(
    "layout",
    [
        lambda y: y.t(),
        lambda y: y[:, ::2],
        lambda y: y[:1].expand(4, 6),
        lambda y: torch.view_as_complex(y.reshape(4, 3, 2)).conj(),
        torch.nn.Parameter,
    ],
    ids=["transposed", "strided", "expanded", "conjugate", "parameter"],
)
def test_the_layout_of_y0_does_not_matter(grad: bool, layout: Any) -> None:
    y0 = layout(torch.rand(4, 6, dtype=torch.float64))
    before = y0.detach().clone()
    with torch.set_grad_enabled(grad):
        end = ic.solve(lambda t, y: -y, y0, 0, 1, **TIGHT).ys[0]
        plain = ic.solve(lambda t, y: -y, before.contiguous().resolve_conj(), 0, 1, **TIGHT).ys[0]
    torch.testing.assert_close(end, plain, rtol=1e-8, atol=0)
    assert torch.equal(y0, before)


def test_inference_mode_and_after_it() -> None:
    """Coefficients are cached per process: made in inference mode they must serve training too."""
    y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
    with torch.inference_mode():
        inside = ic.solve(swing, y0, 0, 1, solver="bosh3", save=ic.SaveAt(t1=True, dense=True))
    start = y0.clone().requires_grad_()
    outside = ic.solve(swing, start, 0, 1, solver="bosh3")
    assert torch.equal(inside.ys, outside.ys)
    outside.ys.sum().backward()
    assert start.grad is not None
    assert inside(0.5).shape == (2,)


def test_a_field_that_returns_its_own_state() -> None:
    """The answer aliases the state: no stage may be written over."""
    y0 = torch.ones(2, dtype=torch.float64)
    end = ic.solve(lambda t, y: y, y0, 0, 1, **TIGHT).ys[0]
    torch.testing.assert_close(end, y0.exp(), rtol=1e-7, atol=0)
    assert torch.equal(y0, torch.ones(2, dtype=torch.float64))
