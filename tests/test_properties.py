"""What holds for any state, span and method.

One method of each kind is tried at once, the others are slow (`one_of_each_kind`).
"""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import isocline as ic
from isocline.state import Packing, tree_leaves

from .known import ADAPTIVE, SOLVERS, either, one_of_each_kind, promise, swing, within_reach

EVERY = pytest.mark.parametrize("method", one_of_each_kind(SOLVERS))
ADAPTIVE_ONES = pytest.mark.parametrize("method", one_of_each_kind(ADAPTIVE))
Method = type[ic.solvers.ExplicitRungeKutta]

shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
half = [torch.float16, torch.bfloat16]
dtypes = st.sampled_from([torch.float32, torch.float64, torch.complex64, torch.complex128, *half])


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape, dtype = draw(shapes), draw(dtypes)
    seed = draw(st.integers(0, 2**16))
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.to(dtype)


states = st.recursive(
    tensors(),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.lists(inner, min_size=1, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from("abc"), inner, min_size=1)
    ),
    max_leaves=5,
)


def same(one: Any, other: Any) -> None:
    assert type(one) is type(other) or isinstance(one, Tensor)
    left, right = list(tree_leaves(one)), list(tree_leaves(other))
    assert len(left) == len(right)
    for x, y in zip(left, right, strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        assert torch.equal(x, y)


@given(states)
@settings(max_examples=100)
def test_packing_goes_there_and_back(state: Any) -> None:
    packing = Packing.of(state)
    vector = packing.pack(state)
    assert vector.shape == (packing.size,)
    assert vector.is_contiguous()
    same(packing.unpack(vector), state)
    rows = packing.unpack_rows(torch.stack([vector, 2 * vector]))
    for row, leaf in zip(tree_leaves(rows), tree_leaves(state), strict=True):
        assert torch.equal(row[0], leaf)
        assert row.shape == (2, *leaf.shape)


@given(states)
def test_any_state_stays_where_nothing_moves(state: Any) -> None:
    def field(t: Tensor, y: Any) -> Any:
        packing = Packing.of(y)
        return packing.unpack(torch.zeros(packing.size, dtype=packing.dtype))

    for options in ({}, {"solver": "rk4", "dt0": 0.3}):
        sol = ic.solve(field, state, 0, 1, save=ic.SaveAt(dense=True), **options)
        same(sol(0.5), state)


@EVERY
@given(times=st.lists(st.floats(0.05, 3), min_size=1, max_size=4, unique=True), way=st.booleans())
@settings(max_examples=3)
def test_a_state_at_ts_is_what_a_solve_that_ends_there_finds(
    method: Method, times: list[float], way: bool
) -> None:
    y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
    ts = [t if way else -t for t in sorted(times)]
    options: dict[str, Any] = {**either(method, 3), **within_reach(method, 1e-7)}
    accuracy = 100 * promise(method, options["rtol"])
    if not method().adaptive:
        options["dt0"] = 5e-2
        accuracy = 4 * 5e-2 ** min(method().order, method().dense_order + 1)
    save = ic.SaveAt(ts=ts)
    saved = ic.solve(swing, y0, 0, 3 if way else -3, save=save, **options).ys
    for t, state in zip(ts, saved, strict=True):
        alone = ic.solve(swing, y0, 0, t, **options).ys[-1]
        torch.testing.assert_close(state, alone, rtol=0, atol=accuracy)


def relaxing(scale: float, shift: float) -> Any:
    """A nonlinear field in the time s = (t - shift) / scale."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        s = (t - shift) / scale
        return (torch.cos(s) - y - 0.3 * y**3) / scale

    return field


@ADAPTIVE_ONES
@given(
    shift=st.sampled_from([0.0, 1.0, -3.5, 64.0]),
    power=st.integers(-12, 12),
    turned=st.booleans(),
)
@settings(max_examples=6)
def test_shifting_scaling_and_turning_time_changes_nothing(
    method: Method, shift: float, power: int, turned: bool
) -> None:
    """t -> shift + scale t: the same solution at the mapped times, by nearly the same steps."""
    scale = 2.0**power * (-1 if turned else 1)
    y0 = torch.tensor([[0.1], [2.0]], dtype=torch.float64)
    first = 0.01  # the automatic first step has a floor in absolute units

    def run(scale: float, shift: float) -> ic.Solution:
        return ic.solve(
            relaxing(scale, shift), y0, shift, shift + 2 * scale, solver=method(),
            dt0=first * abs(scale), **within_reach(method, 1e-6),
        )  # fmt: skip

    plain, mapped = run(1.0, 0.0), run(scale, shift)
    torch.testing.assert_close(mapped.ys, plain.ys, rtol=0, atol=1e-7)
    assert abs(mapped.stats.steps_accepted - plain.stats.steps_accepted) <= 1


@ADAPTIVE_ONES
@given(power=st.integers(-9, 9))
@settings(max_examples=5)
def test_the_unit_of_time_does_not_matter(method: Method, power: int) -> None:
    """The automatic first step too: a solve in nanoseconds takes about the steps of one in s."""
    scale = 10.0**power
    y0 = torch.tensor([[0.1], [2.0]], dtype=torch.float64)
    options = {"solver": method(), **within_reach(method, 1e-5)}
    plain, mapped = (
        ic.solve(relaxing(unit, 0.0), y0, 0, 2 * unit, **options) for unit in (1.0, scale)
    )
    torch.testing.assert_close(mapped.ys, plain.ys, rtol=0, atol=5e-4)
    attempts = [s.stats.steps_accepted + s.stats.steps_rejected for s in (plain, mapped)]
    assert attempts[1] <= 3 * attempts[0] + 8


@EVERY
@given(seed=st.integers(0, 1000), size=st.integers(1, 4), length=st.floats(-1.5, 1.5))
@settings(max_examples=4)
def test_a_linear_equation_is_the_matrix_exponential(
    method: Method, seed: int, size: int, length: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Each half of the state moves the other: any method can take that.
    blocks = torch.randn(2, size, size, generator=generator, dtype=torch.float64)
    matrix = torch.block_diag(*blocks).roll(size, dims=0)
    matrix /= torch.linalg.matrix_norm(matrix, 2)
    y0 = torch.randn(3, 2 * size, generator=generator, dtype=torch.float64)
    options: dict[str, Any] = {**either(method, 1), **within_reach(method, 1e-8)}
    accuracy = 100 * promise(method, options["rtol"])
    if not method().adaptive:
        options["dt0"] = 5e-2
        accuracy = max(40 * 5e-2 ** method().order, 1e-13)
    sol = ic.solve(lambda t, y: y @ matrix.T, y0, 0, length, **options)
    exact = y0 @ torch.linalg.matrix_exp(length * matrix).T
    torch.testing.assert_close(sol.ys[-1], exact, rtol=0, atol=accuracy)


@EVERY
@given(seed=st.integers(0, 1000), weight=st.floats(-2, 2))
@settings(max_examples=3)
def test_solutions_of_a_linear_equation_add_up(method: Method, seed: int, weight: float) -> None:
    """With constant steps superposition holds to rounding."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, 4, 2, generator=generator, dtype=torch.float64)
    options = {"solver": method(), "controller": ic.Constant(), "dt0": 0.1}

    def end(y0: Tensor) -> Tensor:
        return ic.solve(swing, y0, 0, 1, **options).ys[-1]

    combined = end(first + weight * second)
    torch.testing.assert_close(combined, end(first) + weight * end(second), rtol=0, atol=1e-12)
