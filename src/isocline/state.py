"""Packing: a nested tuple, list or dict of tensors as one flat vector, and back.

The loop, the solvers and the adjoints see one contiguous vector. A single tensor packs as a view
of itself, so the common case costs nothing. The leaves of a structure lie one after another, each
contiguous, so that a field may `view` them as it likes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import InputError, InputTypeError

__all__ = ["Packing", "State", "tree_describe", "tree_leaves", "tree_rebuild"]

State = Any
"""A tensor, or a nested tuple, list or dict of tensors."""

_HALF = (torch.float16, torch.bfloat16)


def tree_leaves(tree: State) -> Iterator[Any]:
    """The leaves of a nested tuple, list or dict, in the order in which they are packed."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from tree_leaves(value)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from tree_leaves(value)
    else:
        yield tree


def tree_rebuild(tree: State, leaves: Iterator[Any]) -> State:
    """A structure like `tree`, with its leaves taken in turn from `leaves`."""
    if isinstance(tree, dict):
        rebuilt = {key: tree_rebuild(value, leaves) for key, value in tree.items()}
        if type(tree) is dict:
            return rebuilt
        like = copy.copy(tree)  # an OrderedDict, a defaultdict, a user's own
        like.update(rebuilt)
        return like
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):  # a named tuple
        return type(tree)(*(tree_rebuild(value, leaves) for value in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(tree_rebuild(value, leaves) for value in tree)
    return next(leaves)


def tree_describe(tree: State) -> str:
    """The structure in a few words, for messages: `(Tensor[4, 2], Tensor[4])`."""
    if isinstance(tree, Tensor):
        return f"Tensor{list(tree.shape)} {str(tree.dtype).removeprefix('torch.')} on {tree.device}"
    if isinstance(tree, dict):
        inner = ", ".join(f"{key!r}: {tree_describe(value)}" for key, value in tree.items())
        return "{" + inner + "}"
    if isinstance(tree, (tuple, list)):
        inner = ", ".join(tree_describe(value) for value in tree)
        return f"[{inner}]" if isinstance(tree, list) else f"({inner})"
    return type(tree).__name__


def _same_structure(one: State, other: State) -> bool:
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(_same_structure(one[key], other[key]) for key in one)
        )
    if isinstance(one, (tuple, list)):
        return (
            isinstance(other, (tuple, list))
            and len(one) == len(other)
            and all(map(_same_structure, one, other))
        )
    return not isinstance(other, (dict, tuple, list))


def _in_order(template: State, tree: State) -> Iterator[Any]:
    """The leaves of `tree`, whose dicts are read in the order of `template`'s keys."""
    if isinstance(template, dict):
        for key, value in template.items():
            yield from _in_order(value, tree[key])
    elif isinstance(template, (tuple, list)):
        for inner, value in zip(template, tree, strict=True):
            yield from _in_order(inner, value)
    else:
        yield tree


def _paths(tree: State, path: str = "") -> Iterator[str]:
    """Where each leaf stands, in the order in which they are packed."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _paths(value, f"{path}[{key!r}]")
    elif isinstance(tree, (tuple, list)):
        for position, value in enumerate(tree):
            yield from _paths(value, f"{path}[{position}]")
    else:
        yield path


@dataclass(frozen=True, slots=True)
class Packing:
    """Where each leaf of a state lies in the packed vector.

    `dtype` is the dtype of the vector: the widest of the leaves', and float32 where they are
    half precision, so that sums over stages and steps do not lose what the field computes.
    `batch` is the leading dimension when every leaf shares one and some leaf has two or more
    dimensions, else None: then the state is one sample.
    """

    template: State
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    sizes: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    batch: int | None

    @classmethod
    def of(cls, y0: State) -> Packing:
        """The packing of a state, after checking that it is one."""
        leaves = list(tree_leaves(y0))
        if not leaves:
            raise InputError("y0", tree_describe(y0), "at least one tensor")
        for leaf in leaves:
            _check_leaf(leaf)
        devices = {leaf.device for leaf in leaves}
        if len(devices) > 1:
            named = ", ".join(sorted(map(str, devices)))
            raise InputError("y0", f"tensors on {named}", "all tensors on one device")
        dtype = leaves[0].dtype
        for leaf in leaves[1:]:
            dtype = torch.promote_types(dtype, leaf.dtype)
        heads = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
        batched = len(heads) == 1 and any(leaf.ndim >= 2 for leaf in leaves)
        return cls(
            template=y0 if not isinstance(y0, Tensor) else None,
            shapes=tuple(leaf.shape for leaf in leaves),
            dtypes=tuple(leaf.dtype for leaf in leaves),
            sizes=tuple(leaf.numel() for leaf in leaves),
            dtype=torch.float32 if dtype in _HALF else dtype,
            device=leaves[0].device,
            batch=heads.pop() if batched else None,
        )

    @property
    def single(self) -> bool:
        """Whether the state is one tensor rather than a structure."""
        return self.template is None

    @property
    def size(self) -> int:
        """Number of elements of the packed vector."""
        return sum(self.sizes)

    @property
    def time_dtype(self) -> torch.dtype:
        """Dtype of the time that the field is given: the real counterpart of `dtype`."""
        return self.dtype.to_real()

    def pack(self, state: State) -> Tensor:
        """The packed vector of a state with this packing's structure, shapes and devices."""
        if self.single:
            return state.reshape(-1).to(self.dtype)  # type: ignore[no-any-return]
        leaves = self.leaves(state)
        return torch.cat([leaf.reshape(-1).to(self.dtype) for leaf in leaves])

    def fits(self, tree: State) -> bool:
        """Whether `tree` is a structure like y0's, whatever its leaves are."""
        return _same_structure(self.template, tree)

    def same_order(self, other: Packing) -> bool:
        """Whether the leaves of `other` lie at the same places of a structure, in this order."""
        paths = (tuple(_paths(packing.template)) for packing in (self, other))
        return self.fits(other.template) and len(set(paths)) == 1

    def leaves(self, state: State) -> list[Any]:
        """The leaves of a state like y0, in y0's order: in a dict it is the keys that count."""
        return list(_in_order(self.template, state))

    def unpack(self, vector: Tensor) -> State:
        """The state that `vector` packs; leaves are views where their dtype is the vector's."""
        if self.single:
            return _cast(vector, self.dtypes[0]).reshape(self.shapes[0])
        pieces = vector.split(self.sizes)
        leaves = (
            _cast(piece, dtype).reshape(shape)
            for piece, dtype, shape in zip(pieces, self.dtypes, self.shapes, strict=True)
        )
        return tree_rebuild(self.template, leaves)

    def unpack_rows(self, rows: Tensor) -> State:
        """As `unpack`, for a matrix with one packed state per row: each leaf gains that axis."""
        count = rows.shape[0]
        if self.single:
            return _cast(rows, self.dtypes[0]).reshape(count, *self.shapes[0])
        pieces = rows.split(self.sizes, dim=1)
        leaves = (
            _cast(piece, dtype).reshape(count, *shape)
            for piece, dtype, shape in zip(pieces, self.dtypes, self.shapes, strict=True)
        )
        return tree_rebuild(self.template, leaves)

    def per_sample(self, vector: Tensor) -> list[Tensor]:
        """Views of the leaves as (batch, elements of one sample); batch is 1 without one."""
        rows = self.batch if self.batch is not None else 1
        if len(self.sizes) == 1:
            return [vector.reshape(rows, -1)]
        return [piece.reshape(rows, -1) for piece in vector.split(self.sizes)]

    def locate(self, place: int) -> tuple[str, tuple[int, ...]]:
        """Which leaf an element of the packed vector belongs to, and its index there.

        The leaf is "y" where the state is one tensor, else such as "['v']" or "[1][0]".
        """
        names = ["y"] if self.single else list(_paths(self.template))
        for name, shape, size in zip(names, self.shapes, self.sizes, strict=True):
            if place < size:
                index = torch.unravel_index(torch.tensor(place), shape)
                return name, tuple(int(i) for i in index)
            place -= size
        raise IndexError(f"{place} elements beyond the end of the packed state")

    def check_derivative(self, derivative: State) -> None:
        """Raise `InputError` unless `derivative` could be the rate of change of the state."""
        self.check_like(derivative, "field")

    def check_like(self, given: State, argument: str) -> None:
        """Raise `InputError` unless what the function `argument` returned is like the state."""
        like = "a tensor" if self.single else "a structure like y0's"
        if isinstance(given, Tensor) != self.single or not (
            self.single or _same_structure(self.template, given)
        ):
            raise InputTypeError(argument, f"output {tree_describe(given)}", like)
        found = [given] if self.single else self.leaves(given)
        for leaf, shape in zip(found, self.shapes, strict=True):
            if not isinstance(leaf, Tensor):
                raise InputTypeError(argument, f"output {tree_describe(given)}", like)
            if leaf.shape != shape:
                raise InputError(
                    argument,
                    f"output of shape {tuple(leaf.shape)} for a state of shape {tuple(shape)}",
                    "the state's own shape",
                )
            if leaf.device != self.device:
                raise InputError(
                    argument, f"output on {leaf.device}", f"output on {self.device}, as y0"
                )
            if leaf.is_complex() and not self.dtype.is_complex:
                raise InputError(
                    argument, "complex output for a real state", "real output, or a complex y0"
                )


def _cast(vector: Tensor, dtype: torch.dtype) -> Tensor:
    if vector.dtype == dtype:
        return vector
    if vector.is_complex() and not dtype.is_complex:
        vector = vector.real
    return vector.to(dtype)


def _check_leaf(leaf: Any) -> None:
    if not isinstance(leaf, Tensor):
        raise InputTypeError(
            "y0", type(leaf).__name__, "a tensor, or a nested tuple, list or dict of tensors"
        )
    if not (leaf.is_floating_point() or leaf.is_complex()):
        raise InputTypeError(
            "y0", f"dtype {leaf.dtype}", "a floating-point or complex dtype", "Call `.float()`."
        )
    if leaf.numel() == 0 or math.prod(leaf.shape) == 0:
        raise InputError("y0", f"an empty tensor of shape {tuple(leaf.shape)}", "some elements")
