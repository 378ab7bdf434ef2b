"""Tensors that a field writes into as it is evaluated: running statistics, counters, scratch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["Writes", "as_they_are"]

_WITH_COUNTER = 3
"""Buffers of a layer that keeps a mean, a variance and the number of batches."""


class Writes:
    """Tells which of some tensors were changed in place since it was made.

    Args:
        tensors: to look at; their version tells.
        modules: of which layers that keep running statistics are told by their counters, since
            PyTorch's kernels write the statistics without a new version; by value where there is
            no counter.
    """

    def __init__(self, tensors: Iterable[Tensor], modules: Iterable[nn.Module]) -> None:
        layers = [
            tuple(module.buffers(recurse=False))
            for module in modules
            if isinstance(module, _NormBase) and module.training and module.track_running_stats
        ]
        statistics = {id(tensor) for layer in layers for tensor in layer}
        known = {id(tensor): tensor for tensor in tensors if not tensor.is_inference()}
        own = [(tensor,) for key, tensor in known.items() if key not in statistics]
        counted = [layer for layer in layers if len(layer) == _WITH_COUNTER]
        self._versions = [
            (group, [tensor._version for tensor in group]) for group in (*own, *counted)
        ]
        self._values = [
            (tensor, tensor.clone())
            for layer in layers
            if len(layer) != _WITH_COUNTER
            for tensor in layer
        ]

    def found(self) -> tuple[Tensor, ...]:
        """The tensors that have changed."""
        by_value = [tensor for tensor, value in self._values if not torch.equal(tensor, value)]
        by_version = [
            tensor
            for group, before in self._versions
            if [member._version for member in group] != before
            for tensor in group
        ]
        return (*by_value, *by_version)


@contextlib.contextmanager
def as_they_are(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Put the values of `tensors` back at the end, whatever was written into them meanwhile.

    An evaluation that only serves to differentiate must not count in a running mean. Threads that
    go back through fields which write into the same tensors at once may undo each other's.
    """
    values = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, value in zip(tensors, values, strict=True):
            tensor.data.copy_(value)  # no new version: a graph that saved it finds what it saved
