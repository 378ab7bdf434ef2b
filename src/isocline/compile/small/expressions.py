"""Operators that work element by element, as C++ expressions of their operands' elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

__all__ = ["C_TYPES", "elementwise", "literal"]

_aten: Any = torch.ops.aten

C_TYPES = {torch.float32: "float", torch.float64: "double", torch.bool: "bool"}
"""Types of elements, in C++; there are no others in a small graph."""

_EXPRESSIONS: dict[Any, str] = {
    _aten.add.Tensor: "{0} + {1}",
    _aten.add.Scalar: "{0} + {1}",
    _aten.sub.Tensor: "{0} - {1}",
    _aten.sub.Scalar: "{0} - {1}",
    _aten.mul.Tensor: "{0} * {1}",
    _aten.mul.Scalar: "{0} * {1}",
    _aten.div.Tensor: "{0} / {1}",
    _aten.div.Scalar: "{0} / {1}",
    _aten.neg.default: "-{0}",
    _aten.reciprocal.default: "1 / {0}",
    _aten.abs.default: "std::abs({0})",
    _aten.sqrt.default: "std::sqrt({0})",
    _aten.exp.default: "std::exp({0})",
    _aten.log.default: "std::log({0})",
    _aten.sin.default: "std::sin({0})",
    _aten.cos.default: "std::cos({0})",
    _aten.tanh.default: "tanh_of({0})",
    _aten.sigmoid.default: "1 / (1 + std::exp(-{0}))",
    _aten.sigmoid_backward.default: "{0} * (1 - {1}) * {1}",
    _aten.relu.default: "larger({0}, 0)",
    _aten.maximum.default: "larger({0}, {1})",
    _aten.minimum.default: "smaller({0}, {1})",
    _aten.where.self: "({0} ? {1} : {2})",
    _aten._to_copy.default: "{0}",
    _aten.clone.default: "{0}",
    _aten.tanh_backward.default: "{0} * (1 - {1} * {1})",
    _aten.threshold_backward.default: "({1} <= {2} ? 0 : {0})",
    _aten.pow.Tensor_Scalar: "std::pow({0}, {1})",
    _aten.bitwise_and.Tensor: "({0} && {1})",
    _aten.bitwise_or.Tensor: "({0} || {1})",
    _aten.logical_not.default: "!{0}",
    _aten.scalar_tensor.default: "{0}",
    _aten.zeros_like.default: "0",
    _aten.ones_like.default: "1",
    _aten.full_like.default: "{1}",
}

_COMPARED = {
    **{getattr(_aten, name): sign for name, sign in (("eq", "=="), ("ne", "!="), ("lt", "<"))},
    **{getattr(_aten, name): sign for name, sign in (("le", "<="), ("gt", ">"), ("ge", ">="))},
}
for _packet, _sign in _COMPARED.items():
    _EXPRESSIONS[_packet.Tensor] = _EXPRESSIONS[_packet.Scalar] = f"({{0}} {_sign} {{1}})"

_CALLS = ("exp", "log", "sin", "cos", "pow")
_MOST_CALLS = 32
"""Elements up to which functions of the C library are called; Inductor has them by vectors."""

_LOGICAL = (_aten.bitwise_and.Tensor, _aten.bitwise_or.Tensor, _aten.logical_not.default)
_WITHOUT_EFFECT = {"dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking"}
_POWERS = {2: "{0} * {0}", 3: "{0} * {0} * {0}", 0.5: "std::sqrt({0})", 1: "{0}"}


def elementwise(node: Node) -> tuple[str, torch.dtype] | None:
    """The expression of a node's element, and the type to compute it in; None for others.

    The operands stand in it as {0}, {1}, ...
    """
    if set(node.kwargs) - _WITHOUT_EFFECT or not isinstance(node.meta.get("val"), Tensor):
        return None
    given: Any = node.args
    result = node.meta["val"].dtype
    if node.target is _aten.clamp.default:
        bounds = (*given[1:], None)[:2]
        text = "{0}"
        text = text if bounds[0] is None else f"larger({text}, {{1}})"
        text = text if bounds[1] is None else f"smaller({text}, {{2}})"
        return text, result
    text = _EXPRESSIONS.get(node.target, "")
    if node.target is _aten.pow.Tensor_Scalar:
        text = _POWERS.get(given[1], text)
    if not text:
        return None
    called = any(f"std::{name}(" in text for name in _CALLS)
    if called and node.meta["val"].numel() > _MOST_CALLS:
        return None
    return text, result if result is not torch.bool or node.target in _LOGICAL else _common(given)


def _common(given: Sequence[Any]) -> torch.dtype:
    """The type in which operands are compared, or, of booleans, multiplied."""
    common: Any = None
    for one in given:
        value = one.meta["val"] if isinstance(one, Node) else one
        if common is None:
            common = value
        else:
            common = torch.empty_like(common, dtype=torch.result_type(common, value))
    dtype: torch.dtype = common.dtype
    return dtype


def literal(value: Any, dtype: torch.dtype) -> str:
    """A number as C++ has it."""
    number = float(value)
    name = C_TYPES[dtype]
    if math.isnan(number):
        return f"std::numeric_limits<{name}>::quiet_NaN()"
    if math.isinf(number):
        return f"{'-' if number < 0 else ''}std::numeric_limits<{name}>::infinity()"
    return f"{name}({number!r})"
