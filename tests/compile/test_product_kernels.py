"""The kernels for small matrices, compiled alone: every form, every remainder."""

import ctypes
import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isocline.compile import passes

EXPORTS = """
#include "products.h"
#include "layers.h"
using std::int64_t;
#define EXPORT(name, T) \\
    extern "C" void name(const T* a, bool a_turned, const T* b, bool b_turned, T* c, \\
                         int64_t rows, int64_t columns, int64_t inner, bool add) { \\
        isocline::product(a, a_turned, b, b_turned, c, rows, columns, inner, add); \\
    }
EXPORT(of_float32, float)
EXPORT(of_float64, double)
extern "C" void finish(float* rows, const isocline::Layer* layer, int64_t row) {
    isocline::finish(rows, *layer, row);
}
extern "C" void layers(const float* x, const isocline::Layer* all, int64_t count, float* out,
                       int64_t rows, int64_t inner) {
    isocline::layers(x, all, count, out, rows, inner);
}
"""


class Layer(ctypes.Structure):
    """As in `layers.h`."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("result", ctypes.c_void_p),
        ("turned", ctypes.c_bool),
        ("kept", ctypes.c_bool),
        ("columns", ctypes.c_int64),
        ("follows", ctypes.c_int64),
    )


@pytest.fixture(scope="module", params=["native", "plain", "threads"])
def kernels(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ctypes.CDLL:
    """The kernels, for this processor, for the smallest vectors there are, and for threads."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    assert compiler is not None
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "exports.cpp").write_text(EXPORTS)
    library = folder / "kernels.so"
    flags = ["-O3", "-std=c++20", "-shared", "-fPIC", "-ffp-contract=fast", "-Wall", "-Werror"]
    flags += {
        "native": ["-march=native"],
        "plain": ["-Wno-unknown-pragmas"],
        "threads": ["-fopenmp", "-DISOCLINE_THREADS=3"],
    }[request.param]
    include = f"-I{Path(passes.__file__).parent}"
    command = [compiler, *flags, include, str(folder / "exports.cpp"), "-o", str(library)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def at(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def multiply(
    kernels: ctypes.CDLL,
    operands: tuple[Tensor, Tensor],
    turned: tuple[bool, bool],
    c: Tensor,
    add: bool,
) -> None:
    """c (+)= op(a) op(b)."""
    a, b = operands
    inner = a.shape[0] if turned[0] else a.shape[1]
    sizes = [ctypes.c_int64(size) for size in (*c.shape, inner)]
    function = kernels.of_float32 if a.dtype is torch.float32 else kernels.of_float64
    one, other, more = (ctypes.c_bool(flag) for flag in (*turned, add))
    function(at(a), one, at(b), other, at(c), *sizes, more)


sizes = st.one_of(st.integers(1, 9), st.integers(10, 70))


@given(
    rows=sizes,
    columns=sizes,
    inner=st.one_of(sizes, st.integers(250, 600)),
    flags=st.tuples(*[st.booleans()] * 4),
)
@settings(max_examples=120, deadline=None)
def test_products_are_right(
    kernels: ctypes.CDLL, rows: int, columns: int, inner: int, flags: tuple[bool, ...]
) -> None:
    a_turned, b_turned, add, double = flags
    dtype = torch.float64 if double else torch.float32
    generator = torch.Generator().manual_seed(rows * 10007 + columns * 101 + inner)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, generator=generator)

    a, b = draw(rows, inner), draw(inner, columns)
    # Beyond the result nothing may be written to.
    whole = draw(rows + 1, columns)
    c, before = whole[:rows], whole.clone()
    left = a.t().contiguous() if a_turned else a
    right = b.t().contiguous() if b_turned else b
    multiply(kernels, (left, right), (a_turned, b_turned), c, add)
    wanted = a.double() @ b.double() + (before[:rows].double() if add else 0)
    scale = a.double().abs() @ b.double().abs() + before[:rows].double().abs()
    assert ((c - wanted).abs() <= 2 * inner**0.5 * torch.finfo(dtype).eps * scale).all()
    assert torch.equal(whole[rows], before[rows])


def test_what_is_not_finite_goes_through(kernels: ctypes.CDLL) -> None:
    """The loop takes a NaN as the sign that a step failed."""
    for bad in (torch.nan, torch.inf):
        a, b, c = torch.ones(3, 5), torch.ones(5, 20), torch.zeros(3, 20)
        a[1, 2] = bad
        multiply(kernels, (a, b), (False, False), c, False)
        assert torch.equal(c.isfinite().all(1), torch.tensor([True, False, True]))


@pytest.mark.parametrize("inner", [3, 16, 21])
def test_what_is_not_finite_stays_in_its_column(kernels: ctypes.CDLL, inner: int) -> None:
    """Rows of both factors multiplied whole: ends of rows are read with what lies before them."""
    for bad, place in itertools.product((torch.nan, torch.inf), range(inner)):
        a, b, c = torch.ones(2, inner), torch.ones(19, inner), torch.zeros(2, 19)
        b[5, place] = bad
        multiply(kernels, (a, b), (False, True), c, False)
        wanted = torch.full((2, 19), float(inner))
        wanted[:, 5] = bad
        torch.testing.assert_close(c, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("turned", [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("rows", [64, 1001, 5000])
def test_large_products_are_right(
    kernels: ctypes.CDLL, rows: int, turned: tuple[bool, bool]
) -> None:
    """Such as are cut for the threads."""
    a, b = torch.randn(rows, 300), torch.randn(300, 61)
    pair = [x.t().contiguous() if t else x for x, t in zip((a, b), turned, strict=True)]
    c = torch.empty(rows, 61)
    multiply(kernels, (pair[0], pair[1]), turned, c, False)
    torch.testing.assert_close(c.double(), a.double() @ b.double(), rtol=0, atol=1e-4)


AFTER = {0: torch.clone, 1: torch.tanh, 2: torch.relu}
BACK = {
    3: torch.ops.aten.tanh_backward.default,
    4: lambda x, y: torch.ops.aten.threshold_backward.default(x, y, 0),
}


@pytest.mark.parametrize("columns", [1, 3, 8, 21])
def test_activations_are_right(kernels: ctypes.CDLL, columns: int) -> None:
    """With what is not finite, and nothing written beyond the row."""
    values = torch.tensor([-torch.inf, -30, -2, -1e-20, 0, 1e-5, 0.3, 3, 12, torch.inf, torch.nan])
    bias = torch.linspace(-1, 1, columns)
    for value, (number, body) in itertools.product(values, AFTER.items()):
        for shift in (None, bias):
            rows = value.repeat(2 * columns + 1)
            wanted = rows.clone()
            wanted[columns:-1] = body(rows[columns:-1] if shift is None else value + shift)
            layer = Layer(bias=at(shift), columns=columns, follows=number)
            kernels.finish(at(rows), ctypes.byref(layer), ctypes.c_int64(1))
            torch.testing.assert_close(rows, wanted, rtol=8 * 2**-24, atol=0, equal_nan=True)


@pytest.mark.parametrize("columns", [1, 3, 8, 21])
@pytest.mark.parametrize("number", BACK)
def test_the_way_back_through_activations_is_right(
    kernels: ctypes.CDLL, columns: int, number: int
) -> None:
    results = torch.linspace(-1, 1, 2 * columns)
    results[::5] = 0.0
    for value in torch.tensor([-2.0, 0.3, torch.inf, torch.nan]):
        rows = value.repeat(2 * columns + 1)
        wanted = rows.clone()
        wanted[columns:-1] = BACK[number](rows[columns:-1], results[columns:])
        layer = Layer(result=at(results), columns=columns, follows=number)
        kernels.finish(at(rows), ctypes.byref(layer), ctypes.c_int64(1))
        torch.testing.assert_close(rows, wanted, rtol=2**-22, atol=0, equal_nan=True)


@pytest.mark.parametrize("widths", [(2, 64, 64, 2), (128, 128, 128), (5, 1, 3, 3, 3, 7)])
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("kept", ["last", "all", "others"])
def test_layers_are_right(
    kernels: ctypes.CDLL, widths: tuple[int, ...], rows: int, kept: str
) -> None:
    """At the widest, and as many rows as there may be; what is kept lies one after another."""
    pairs = list(itertools.pairwise(widths))
    count = len(pairs)
    turned = [i % 2 == 0 for i in range(count)]
    keeps = [kept == "all" or i == count - 1 or (kept == "others" and i % 2) for i in range(count)]
    weights = [torch.randn(a, b) / a**0.5 for a, b in pairs]
    laid = [w.t().contiguous() if t else w for w, t in zip(weights, turned, strict=True)]
    biases = [torch.randn(b) if i != 1 else None for i, (_, b) in enumerate(pairs)]
    results = [torch.rand(rows, b) if i == 1 else None for i, (_, b) in enumerate(pairs)]
    every = zip(laid, biases, results, turned, keeps, pairs, strict=True)
    all_layers = (Layer * count)(
        *(
            Layer(at(w), at(c), at(r), t, k, b, 1 if r is None else 3)
            for w, c, r, t, k, (_, b) in every
        )
    )
    x, wanted = torch.randn(rows, widths[0]), []
    y = x.double()
    for weight, bias, result, keep in zip(weights, biases, results, keeps, strict=True):
        y = y @ weight.double() + (0 if bias is None else bias.double())
        y = y.tanh() if result is None else BACK[3](y, result.double())
        wanted += [y.flatten()] if keep else []
    out = torch.zeros(sum(map(len, wanted)) + 1)
    sizes = [ctypes.c_int64(size) for size in (rows, widths[0])]
    kernels.layers(at(x), all_layers, ctypes.c_int64(count), at(out), *sizes)
    wanted.append(torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(out.double(), torch.cat(wanted), rtol=0, atol=3e-6)
