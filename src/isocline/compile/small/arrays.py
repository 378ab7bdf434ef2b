"""Arrays in C++ that stand for tensors, and loops over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.fx import Node

__all__ = ["Array", "Loops", "alike", "by_rows", "shape_of"]


class Array(NamedTuple):
    """Elements of a tensor: `base[at + sum of index times stride]`."""

    base: str
    at: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many."""
        return math.prod(self.shape)

    @property
    def start(self) -> str:
        """A pointer to the first."""
        return f"{self.base} + {self.at}"

    @property
    def flat(self) -> Array:
        """In one row, if they lie together."""
        return self._replace(shape=(self.size,), strides=(1,))

    @property
    def turned(self) -> Array:
        """The transpose of a matrix."""
        return self._replace(shape=self.shape[::-1], strides=self.strides[::-1])

    @property
    def together(self) -> bool:
        """Whether they lie together, by rows."""
        _, expected = by_rows(self.shape)
        axes = zip(self.shape, self.strides, expected, strict=True)
        return all(count == 1 or stride == wanted for count, stride, wanted in axes)

    def element(self, indices: Sequence[str], shape: Sequence[int]) -> str:
        """The element that is broadcast to the place `indices` of `shape`."""
        lead = len(shape) - len(self.shape)
        axes = zip(indices[lead:], self.shape, self.strides, strict=True)
        terms = [f"{i} * {stride}" for i, count, stride in axes if count != 1 and stride]
        return f"{self.base}[{' + '.join([str(self.at), *terms])}]"


class Loops:
    """Writes the heads of loops over a shape, and closes them; hands out the indices."""

    def __init__(self, lines: list[str], shape: Sequence[int]) -> None:
        self._lines, self._shape = lines, shape

    def __enter__(self) -> list[str]:
        for axis, size in enumerate(self._shape):
            self._lines.append(f"for (int i{axis} = 0; i{axis} < {size}; i{axis}++) {{")
        return [f"i{axis}" for axis in range(len(self._shape))]

    def __exit__(self, *_: object) -> None:
        self._lines.append("}" * len(self._shape))


def shape_of(node: Node) -> tuple[int, ...]:
    """The shape of what a node stands for."""
    return tuple(node.meta["val"].shape)


def by_rows(shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A shape, and the strides of what lies together by rows."""
    return tuple(shape), tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether two views of one tensor are the same."""
    same = one.shape == other.shape and one.storage_offset() == other.storage_offset()
    return bool(same and one.stride() == other.stride())
