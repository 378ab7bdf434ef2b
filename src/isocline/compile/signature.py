"""What compiled code may be called with: artifacts of AOTInductor do not look at their inputs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..state import Packing, tree_rebuild

__all__ = ["Signature", "Slot", "pattern", "unreadable"]


class Slot(NamedTuple):
    """What a tensor must be: AOTInductor's artifacts do not look at their inputs.

    Attributes:
        place: in the subject's tensors.
        dtype, device, shape, stride: what it was traced with.
        dynamic: whether its leading axis is the batch; it must then be contiguous.
    """

    place: int
    dtype: torch.dtype
    device: torch.device
    shape: torch.Size
    stride: tuple[int, ...]
    dynamic: bool

    def admits(self, tensor: Tensor, batch: int | None) -> bool:
        """Whether a tensor may be given, with a batch of so many samples."""
        if tensor.dtype is not self.dtype or unreadable(tensor, self.device):
            return False
        if tensor.dim() != len(self.shape):
            return False
        if self.dynamic:
            return tensor.shape[0] == batch and tensor.shape[1:] == self.shape[1:]
        return tensor.shape == self.shape and tensor.stride() == self.stride


@dataclass(frozen=True, slots=True)
class Signature:
    """The part of a packing that a trace depends on."""

    packing: Packing
    dynamic: bool

    @classmethod
    def of(cls, packing: Packing, dynamic: bool) -> Signature:
        """That of a packing; it holds no tensors."""
        return cls(_bare(packing), dynamic)

    def admits(self, packing: Packing) -> bool:
        """Whether states of that packing may be given."""
        mine = self.packing
        if packing.dtypes != mine.dtypes or packing.device != mine.device:
            return False
        if not self.dynamic:
            fits = packing.shapes == mine.shapes and packing.batch == mine.batch
        else:
            pairs = zip(packing.shapes, mine.shapes, strict=False)
            fits = (
                packing.batch is not None
                and packing.batch >= 2
                and len(packing.shapes) == len(mine.shapes)
                and all(one[1:] == other[1:] for one, other in pairs)
            )
        return (
            fits
            and (mine.template is None) == (packing.template is None)
            and (mine.template is None or mine.same_order(packing))
        )


def pattern(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Which of the tensors are one: for each the place where it is met first.

    A trace that found one tensor at two places has one input for both.
    """
    first: dict[int, int] = {}
    return tuple(first.setdefault(id(tensor), place) for place, tensor in enumerate(tensors))


def unreadable(tensor: Tensor, device: torch.device) -> str | None:
    """Why compiled code on a device would misread a tensor: it reads memory as it lies."""
    if tensor.layout is not torch.strided:
        return f"of layout {tensor.layout}: take a dense one"
    if tensor.device != device:
        return f"on {tensor.device}: move it to {device}, where the state is"
    if tensor.is_neg() or tensor.is_conj():
        return "that is a lazy negative or conjugate: take `tensor.resolve_neg().resolve_conj()`"
    return None


def _bare(packing: Packing) -> Packing:
    """The packing with nothing in the place of y0's leaves, which need not be kept."""
    if packing.template is None:
        return packing
    return replace(packing, template=tree_rebuild(packing.template, itertools.repeat(None)))
