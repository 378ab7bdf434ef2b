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
extern "C" void activated(float* row, const float* bias, int64_t columns, int64_t activation) {
    isocline::finish(row, bias, columns, activation);
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
        ("turned", ctypes.c_bool),
        ("columns", ctypes.c_int64),
        ("activation", ctypes.c_int64),
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


@pytest.mark.parametrize("columns", [1, 3, 8, 21])
def test_activations_are_right(kernels: ctypes.CDLL, columns: int) -> None:
    """With what is not finite, and nothing written beyond the row."""
    values = torch.tensor([-torch.inf, -30, -2, -1e-20, 0, 1e-5, 0.3, 3, 12, torch.inf, torch.nan])
    bias = torch.linspace(-1, 1, columns)
    bodies = {0: torch.clone, 1: torch.tanh, 2: torch.relu}
    for value, (number, body) in itertools.product(values, bodies.items()):
        for shift in (None, bias):
            row = value.repeat(columns + 1)
            wanted = body(row[:-1] if shift is None else row[:-1] + shift)
            kernels.activated(at(row), at(shift), ctypes.c_int64(columns), ctypes.c_int64(number))
            torch.testing.assert_close(row[:-1], wanted, rtol=8 * 2**-24, atol=0, equal_nan=True)
            torch.testing.assert_close(row[-1], value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("widths", [(2, 64, 64, 2), (128, 128, 128), (5, 1, 3, 3, 3, 7)])
@pytest.mark.parametrize("rows", [1, 7])
def test_layers_are_right(kernels: ctypes.CDLL, widths: tuple[int, ...], rows: int) -> None:
    """At the widest, and as many rows as there may be."""
    pairs = list(itertools.pairwise(widths))
    turned = [i % 2 == 0 for i in range(len(pairs))]
    weights = [torch.randn(a, b) / a**0.5 for a, b in pairs]
    laid = [w.t().contiguous() if t else w for w, t in zip(weights, turned, strict=True)]
    biases = [torch.randn(b) if i != 1 else None for i, (_, b) in enumerate(pairs)]
    every = zip(laid, biases, turned, pairs, strict=True)
    all_layers = (Layer * len(pairs))(*(Layer(at(w), at(c), t, b, 1) for w, c, t, (_, b) in every))
    x, out = torch.randn(rows, widths[0]), torch.zeros(rows, widths[-1])
    sizes = [ctypes.c_int64(size) for size in (rows, widths[0])]
    kernels.layers(at(x), all_layers, ctypes.c_int64(len(pairs)), at(out), *sizes)
    wanted = x.double()
    for weight, bias in zip(weights, biases, strict=True):
        wanted = wanted @ weight.double() + (0 if bias is None else bias.double())
        wanted = wanted.tanh()
    torch.testing.assert_close(out.double(), wanted, rtol=0, atol=3e-6)
