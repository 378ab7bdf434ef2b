"""A capture for the CPU that keeps what a CUDA graph keeps: operations, and where tensors lie.

What is recorded runs again with the very tensors of the recording, whatever Python has come to
since. As under a CUDA capture, nobody may look at a value, or write from outside of the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

__all__ = ["Taped"]

_FORBIDDEN = (
    "_local_scalar_dense",
    "nonzero",
    "is_nonzero",
    "lift_fresh",
    "masked_select",
    "equal",
)
"""What waits for a device, or copies from the host."""


class Taped:
    """Records on a tape.

    Attributes:
        recorded: how many recordings were made.
        replayed: how often one was run again.
        read: how many letters were.
    """

    def __init__(self) -> None:
        self.recorded = self.replayed = self.read = 0

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        """Run it once to warm up, and once to record it; see `Capture`."""
        body()
        tape = _Tape()
        with tape:
            body()
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            tape.replay()

        return replay

    def letter(self, number: Tensor) -> _Letter:
        """A copy."""
        return _Letter(self, number.clone())


class _Letter:
    def __init__(self, taped: Taped, number: Tensor) -> None:
        self._taped, self._number = taped, number

    def read(self) -> int:
        self._taped.read += 1
        return int(self._number)


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._steps: list[tuple[Any, Any, Any, list[tuple[int, Tensor]]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in _FORBIDDEN:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        given = dict(kwargs or {})
        found = func(*args, **given)
        homes = {_home(x) for x in _tensors((args, given))}
        new = [(i, x) for i, x in enumerate(_tensors(found)) if _home(x) not in homes]
        self._steps.append((func, args, given, new))
        return found

    def replay(self) -> None:
        """Run everything again, with results where they were."""
        with torch.no_grad():
            for func, args, given, places in self._steps:
                found = list(_tensors(func(*args, **given)))
                for i, place in places:
                    place.copy_(found[i])


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor))


def _home(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
