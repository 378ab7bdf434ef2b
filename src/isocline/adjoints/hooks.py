"""Hooks on tensors, kept away from the parts that a gradient is summed from."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

__all__ = ["without_hooks"]


class _Muted:
    """A hook on a tensor that threads inside of `without_hooks` do not run."""

    lock = threading.Lock()
    here = threading.local()

    def __init__(self, hook: Callable[[Tensor], Tensor | None]) -> None:
        self.hook = hook
        self.users = 0

    def __call__(self, gradient: Tensor) -> Tensor | None:
        return None if getattr(self.here, "depth", 0) else self.hook(gradient)


@contextlib.contextmanager
def without_hooks(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Keep the user's hooks for the whole gradient, away from the parts that it is summed from.

    Other threads, which may be in a backward pass of their own, run them as ever.
    """
    registers = [tensor._backward_hooks for tensor in tensors if tensor._backward_hooks]
    found: list[tuple[dict[int, Any], int, _Muted]] = []
    with _Muted.lock:
        for register in registers:  # autograd looks into the register itself: change it in place
            for key, hook in list(register.items()):
                muted = hook if isinstance(hook, _Muted) else _Muted(hook)
                muted.users += 1
                register[key] = muted
                found.append((register, key, muted))
    _Muted.here.depth = getattr(_Muted.here, "depth", 0) + 1
    try:
        yield
    finally:
        _Muted.here.depth -= 1
        with _Muted.lock:
            for register, key, muted in found:
                muted.users -= 1
                if not muted.users and register.get(key) is muted:
                    register[key] = muted.hook
