"""Operators of our own, for graphs: what they compute in torch, and their C functions.

The kernels are plain C++ (`products.h`, `layers.h`). Their source goes into each artifact, which so
depends on no other library.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

__all__ = ["ACTIVATIONS", "shims"]

ACTIVATIONS = {torch.ops.aten.tanh.default: 1, torch.ops.aten.relu.default: 2}
"""Numbers by which `layers.h` knows what may follow a layer; 0 is nothing."""

_library = torch.library.Library("isocline", "DEF")
_tags = (torch.Tag.needs_exact_strides,)
_library.define(
    "small_product(Tensor a, Tensor b, bool a_turned, bool b_turned) -> Tensor", tags=_tags
)
_library.define("small_products(Tensor[] a, Tensor[] b) -> Tensor", tags=_tags)
_library.define("small_layers(Tensor x, Tensor[] parts, int[] kinds) -> Tensor", tags=_tags)


def _small_product(a: Tensor, b: Tensor, a_turned: bool, b_turned: bool) -> Tensor:
    """The product of `a` and `b`, each transposed if it is turned; all contiguous."""
    return torch.mm(a.t() if a_turned else a, b.t() if b_turned else b)


def _small_products(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The sum of the products of each of `a`, transposed, and its partner."""
    terms = [torch.mm(left.t(), right) for left, right in zip(a, b, strict=True)]
    return torch.stack(terms).sum(0)


def _small_layers(x: Tensor, parts: Sequence[Tensor], kinds: Sequence[int]) -> Tensor:
    """Dense layers one after another.

    Args:
        x: shape (rows, inner).
        parts: for each layer its weight and, if it has one, its bias.
        kinds: for each layer 1 if the weight is turned, (columns, inner), plus 2 if there is a
            bias, plus 4 times the number of what follows.
    """
    given = iter(parts)
    follows = {number: operator for operator, number in ACTIVATIONS.items()}
    for kind in kinds:
        weight = next(given)
        x = torch.mm(x, weight.t() if kind & 1 else weight)
        x = x + next(given) if kind & 2 else x
        x = follows[kind >> 2](x) if kind >> 2 else x
    return x


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
        "(AtenTensorHandle x, const AtenTensorHandle* parts, int64_t, const int64_t* kinds, "
        "int64_t count, AtenTensorHandle* out) "
        "{ return isocline_layers(x, parts, kinds, count, out); }"
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
