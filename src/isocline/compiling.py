"""What `torch.compile` is not to trace: a solve, whose loop decides on the host at every step.

Traced, it would be cut into a graph for every piece of every step. So where a model that contains
a solve is compiled, its graph is broken there, once; the solve runs as it always does, and what
comes before and after it is compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

__all__ = ["untraced"]

P = ParamSpec("P")
R = TypeVar("R")


def untraced(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, which runs as it is where its caller is compiled.

    As `torch.compiler.disable` does; but that loads the compiler, which takes longer than all the
    rest of PyTorch, so it is put off until a compiler asks.
    """
    twins: list[Callable[P, R]] = []

    # The compiler does not look into what has this mark.
    def outside(*args: P.args, **kwargs: P.kwargs) -> R:
        if not twins:
            twins.append(torch.compiler.disable(function))
        return twins[0](*args, **kwargs)

    outside._torchdynamo_disable = True  # type: ignore[attr-defined]

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return outside(*args, **kwargs)
        return function(*args, **kwargs)

    return called
