"""Sizes of tensors in a traced graph, for any number of samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

__all__ = ["Size", "size_of", "sized", "sizes_from"]

Size = tuple[int, ...] | Any
"""Bytes: coefficients of a polynomial in the batch, from the constant up; or an expression."""


def size_of(fake: Tensor) -> Size:
    """Bytes of a tensor."""
    count: Any = fake.numel()
    each = fake.element_size()
    if isinstance(count, int):
        return (count * each,)
    expression = count.node.expr * each
    if len(expression.free_symbols) == 1 and expression.is_polynomial():
        (batch,) = expression.free_symbols
        return tuple(int(x) for x in reversed(expression.as_poly(batch).all_coeffs()))
    return expression


def sized(size: Size, batch: int | None) -> int:
    """Bytes for a batch of so many samples, where that is free."""
    if isinstance(size, tuple):
        return sum(each * (batch or 0) ** power for power, each in enumerate(size))
    return int(size.subs(dict.fromkeys(size.free_symbols, batch)))


def sizes_from(found: Any) -> tuple[Size, ...]:
    """Sizes from plain data.

    Raises:
        ValueError: if that is not what they are.
    """
    if not isinstance(found, list) or not all(map(_is_polynomial, found)):
        raise ValueError("sizes were expected")
    return tuple(tuple(size) for size in found)


def _is_polynomial(found: Any) -> bool:
    return isinstance(found, Iterable) and all(type(each) is int for each in found)
