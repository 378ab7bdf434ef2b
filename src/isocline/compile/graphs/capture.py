"""How work on a device is recorded, to be run again at one go, and how the host hears of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["CAPTURES", "Capture", "CudaCapture", "Letter", "graphed"]

Body = Callable[[], None]


class Letter(Protocol):
    """A number on its way to the host."""

    def read(self) -> int:
        """It, as soon as it is there."""


class Capture(Protocol):
    """Records work on one kind of device."""

    def record(self, body: Body) -> Body:
        """What runs `body` again, over the same tensors.

        Recording runs it as well, once or not at all: who records loads its inputs afterwards.
        """

    def letter(self, number: Tensor) -> Letter:
        """Send an integer to the host, as it is at this point of the device's work."""


class CudaCapture:
    """CUDA graphs."""

    def record(self, body: Body) -> Body:
        """Capture `body`, which must not wait for the device."""
        # Libraries load kernels and make their workspaces at the first call, which a capture
        # forbids; and what autograd ran on another stream before must be over.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            body()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            body()
        return graph.replay

    def letter(self, number: Tensor) -> Letter:
        """Copied into memory that the device may write to while the host goes on."""
        return _Pinned(number)


class _Pinned:
    def __init__(self, number: Tensor) -> None:
        self._copy = torch.empty_like(number, device="cpu", pin_memory=True)
        self._copy.copy_(number, non_blocking=True)
        self._there: Any = torch.cuda.Event()
        self._there.record()

    def read(self) -> int:
        self._there.synchronize()
        return int(self._copy)


CAPTURES: dict[str, Capture] = {"cuda": CudaCapture()}
"""By kind of device: whose steps run in graphs of the device."""


def graphed(device: torch.device) -> bool:
    """Whether that is so."""
    return device.type in CAPTURES
