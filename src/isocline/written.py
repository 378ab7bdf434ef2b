"""Tensors that a field writes into as it is evaluated: running statistics, counters, scratch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["Writes", "as_they_are"]


class Writes:
    """Tells which of some tensors were changed in place since it was made.

    Args:
        tensors: to look at; their version tells.
        modules: of which running statistics are compared by value, for PyTorch's kernels write
            them without a new version.
    """

    def __init__(self, tensors: Iterable[Tensor], modules: Iterable[nn.Module]) -> None:
        statistics = {
            id(tensor): tensor
            for module in modules
            for part in module.modules()
            if isinstance(part, _NormBase) and part.training and part.track_running_stats
            for tensor in part.buffers()
        }
        known = {id(tensor): tensor for tensor in tensors if not tensor.is_inference()}
        self._values = [(tensor, tensor.clone()) for tensor in statistics.values()]
        self._versions = [
            (tensor, tensor._version) for key, tensor in known.items() if key not in statistics
        ]

    def found(self) -> tuple[Tensor, ...]:
        """The tensors that have changed."""
        by_value = [tensor for tensor, value in self._values if not torch.equal(tensor, value)]
        by_version = [tensor for tensor, before in self._versions if tensor._version != before]
        return (*by_value, *by_version)


@contextlib.contextmanager
def as_they_are(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Put the values of `tensors` back at the end, whatever was written into them meanwhile.

    An evaluation that only serves to differentiate must not count in a running mean.
    """
    values = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, value in zip(tensors, values, strict=True):
            tensor.data.copy_(value)  # no new version: a graph that saved it finds what it saved
