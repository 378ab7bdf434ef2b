"""Operators of our own, for graphs: what they compute in torch, and their C functions.

The kernels are plain C++ (`products.h`, `layers.h`). Their source goes into each artifact, which so
depends on no other library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

__all__ = ["ACTIVATIONS", "PULLS", "shims"]

ACTIVATIONS = {
    torch.ops.aten.tanh.default: 1,
    torch.ops.aten.relu.default: 2,
    torch.ops.aten.tanh_backward.default: 3,
    torch.ops.aten.threshold_backward.default: 4,
}
"""Numbers by which `layers.h` knows what may follow a layer; 0 is nothing.

The last two pull back through an activation, given what it yielded.
"""

PULLS = 3
"""The first number of those."""

_library = torch.library.Library("isocline", "DEF")
_tags = (torch.Tag.needs_exact_strides,)
_library.define(
    "small_product(Tensor a, Tensor b, bool a_turned, bool b_turned) -> Tensor", tags=_tags
)
_library.define("small_products(Tensor[] a, Tensor[] b) -> Tensor", tags=_tags)
_library.define("small_layers(Tensor x, Tensor[] parts, int[] form) -> Tensor", tags=_tags)


def _small_product(a: Tensor, b: Tensor, a_turned: bool, b_turned: bool) -> Tensor:
    """The product of `a` and `b`, each transposed if it is turned; all contiguous."""
    return torch.mm(a.t() if a_turned else a, b.t() if b_turned else b)


def _small_products(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The sum of the products of each of `a`, transposed, and its partner."""
    terms = [torch.mm(left.t(), right) for left, right in zip(a, b, strict=True)]
    return torch.stack(terms).sum(0)


def _small_layers(x: Tensor, parts: Sequence[Tensor], form: Sequence[int]) -> Tensor:
    """Dense layers one after another: what those yield that are kept, in one vector.

    Args:
        x: contiguous, of any shape; so are the parts. What is read of each lies in it together.
        parts: for each layer its weight, its bias if it has one, and, where an activation is
            pulled back, what that yielded.
        form: rows, inner axis and first element of x; then for each layer its columns, its kind and
            the first element of each of its parts. The kind is 1 if the weight is turned,
            (columns, inner), plus 2 if there is a bias, plus 4 if the layer is kept, plus 8 times
            the number of what follows.
    """
    given, numbers = iter(parts), iter(form)
    rows, inner = next(numbers), next(numbers)

    def matrix(tensor: Tensor, *shape: int) -> Tensor:
        first = next(numbers)
        return tensor.reshape(-1)[first : first + math.prod(shape)].view(shape)

    x = matrix(x, rows, inner)
    kept: list[Tensor] = []
    for columns in numbers:
        kind = next(numbers)
        turned, follows = kind & 1, kind >> 3
        weight = matrix(next(given), *((columns, inner) if turned else (inner, columns)))
        x = torch.mm(x, weight.t() if turned else weight)
        x = x + matrix(next(given), columns) if kind & 2 else x
        if follows >= PULLS:
            x = _pulled(x, matrix(next(given), rows, columns), follows)
        elif follows:
            x = torch.tanh(x) if follows == 1 else torch.relu(x)
        kept += [x.reshape(-1)] if kind & 4 else []
        inner = columns
    return torch.cat(kept)


def _pulled(cotangent: Tensor, result: Tensor, follows: int) -> Tensor:
    """A cotangent pulled back through an activation with that result."""
    if follows == PULLS:
        return cotangent * (1.0 - result * result)
    return torch.where(result > 0, cotangent, 0.0)


_bodies: dict[str, Any] = {
    "small_product": _small_product,
    "small_products": _small_products,
    "small_layers": _small_layers,
}
for _name, _body in _bodies.items():
    _library.impl(_name, _body, "CPU")
    torch.library.register_fake(f"isocline::{_name}", _body, lib=_library)


_C_FUNCTIONS = {
    "small_product": (
        "(AtenTensorHandle a, AtenTensorHandle b, int32_t a_turned, int32_t b_turned, "
        "AtenTensorHandle* out) { return isocline_dispatch(&a, a_turned, &b, b_turned, 1, out); }"
    ),
    "small_products": (
        "(const AtenTensorHandle* a, int64_t count, const AtenTensorHandle* b, int64_t, "
        "AtenTensorHandle* out) { return isocline_dispatch(a, true, b, false, count, out); }"
    ),
    "small_layers": (
        "(AtenTensorHandle x, const AtenTensorHandle* parts, int64_t, const int64_t* form, "
        "int64_t length, AtenTensorHandle* out) "
        "{ return isocline_layers(x, parts, form, length, out); }"
    ),
}


def shims(graph: GraphModule) -> dict[Any, list[str]]:
    """For each operator in a graph the C function that AOTInductor is to call, with its source."""
    called = {node.target for node in graph.graph.nodes}
    found: dict[Any, list[str]] = {}
    for name, body in _C_FUNCTIONS.items():
        operator = getattr(torch.ops.isocline, name).default
        if operator in called:
            function = f"AOTITorchError aoti_torch_cpu_{name}{body}"
            # Inductor writes `extern {text};` inside of `extern "C" { ... }`.
            start = "int isocline_unused;" if found else f'"C++" {{\n{_source()}\n}}'
            found[operator] = [f"{start}\n{function}"]
    return found


_HEAD = """#define ISOCLINE_THREADS {threads}
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("O3")
#endif"""
"""Around the kernels: AOTInductor has what calls them, where they stand, compiled with -O1."""

_TAIL = """#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif"""


def _source() -> str:
    here = Path(__file__)
    names = ("products.h", "layers.h", "shims.h")
    texts = [here.with_name(name).read_text() for name in names]
    return "\n".join([_HEAD.format(threads=torch.get_num_threads()), *texts, _TAIL])
