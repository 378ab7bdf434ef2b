"""The kernels for small matrices, compiled alone: every form, every remainder."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isocline.compile import passes

EXPORTS = """
#include "products.h"
using std::int64_t;
#define EXPORT(name, T) \\
    extern "C" void name(const T* a, bool a_turned, const T* b, bool b_turned, T* c, \\
                         int64_t rows, int64_t columns, int64_t inner, bool add) { \\
        isocline::product(a, a_turned, b, b_turned, c, rows, columns, inner, add); \\
    }
EXPORT(of_float32, float)
EXPORT(of_float64, double)
"""

Product = Callable[[Tensor, bool, Tensor, bool, Tensor, bool], None]


@pytest.fixture(scope="module", params=["native", "plain"])
def product(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Product:
    """c (+)= op(a) op(b), for this processor and for the smallest vectors there are."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    assert compiler is not None
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "exports.cpp").write_text(EXPORTS)
    library = folder / "kernels.so"
    flags = ["-O3", "-std=c++20", "-shared", "-fPIC", "-ffp-contract=fast", "-Wall", "-Werror"]
    flags += ["-march=native"] if request.param == "native" else []
    include = f"-I{Path(passes.__file__).parent}"
    command = [compiler, *flags, include, str(folder / "exports.cpp"), "-o", str(library)]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(library))

    def call(a: Tensor, a_turned: bool, b: Tensor, b_turned: bool, c: Tensor, add: bool) -> None:
        pointers = [ctypes.c_void_p(x.data_ptr()) for x in (a, b, c)]
        rows, columns = c.shape
        inner = a.shape[0] if a_turned else a.shape[1]
        sizes = [ctypes.c_int64(size) for size in (rows, columns, inner)]
        flags = [ctypes.c_bool(flag) for flag in (a_turned, b_turned, add)]
        function = loaded.of_float32 if a.dtype is torch.float32 else loaded.of_float64
        function(pointers[0], flags[0], pointers[1], flags[1], pointers[2], *sizes, flags[2])

    return call


sizes = st.one_of(st.integers(1, 9), st.integers(10, 70))


@given(
    rows=sizes,
    columns=sizes,
    inner=st.one_of(sizes, st.integers(250, 600)),
    flags=st.tuples(*[st.booleans()] * 4),
)
@settings(max_examples=300, deadline=None)
def test_products_are_right(
    product: Product, rows: int, columns: int, inner: int, flags: tuple[bool, ...]
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
    product(left, a_turned, right, b_turned, c, add)
    wanted = a.double() @ b.double() + (before[:rows].double() if add else 0)
    scale = a.double().abs() @ b.double().abs() + before[:rows].double().abs()
    assert ((c - wanted).abs() <= 2 * inner**0.5 * torch.finfo(dtype).eps * scale).all()
    assert torch.equal(whole[rows], before[rows])


def test_what_is_not_finite_goes_through(product: Product) -> None:
    """The loop takes a NaN as the sign that a step failed."""
    for bad in (torch.nan, torch.inf):
        a, b, c = torch.ones(3, 5), torch.ones(5, 20), torch.zeros(3, 20)
        a[1, 2] = bad
        product(a, False, b, False, c, False)
        assert torch.equal(c.isfinite().all(1), torch.tensor([True, False, True]))
