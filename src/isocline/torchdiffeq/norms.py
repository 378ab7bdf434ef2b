"""Error norms as torchdiffeq's users write them, and the one that measures tuple states."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, InputTypeError
from ..state import State

__all__ = ["adjoint_norm", "state_norm"]

StateNorm = Callable[[State], Tensor]


def state_norm(choice: Any, y0: State) -> StateNorm | None:
    """The norm for a state like y0.

    Args:
        choice: the user's function of a tensor or a tuple of them, or None.
        y0: the initial state.

    Returns:
        The norm; None for that of `isocline.solve`, which serves for one tensor. A tuple is
        measured entry by entry, sample by sample, and the largest root mean square counts:
        never less than torchdiffeq's, which averages each entry over the batch.
    """
    if choice is not None:
        if not callable(choice):
            given = repr(choice)
            raise InputTypeError("options['norm']", given, "a function of a state, or None")
        return lambda error: torch.as_tensor(choice(error)).abs()
    if isinstance(y0, Tensor):
        return None
    heads = {leaf.shape[0] if leaf.ndim else None for leaf in y0}
    batched = len(heads) == 1 and any(leaf.ndim >= 2 for leaf in y0)
    return lambda error: torch.stack([_worst(leaf, batched) for leaf in error]).amax()


def _worst(leaf: Tensor, batched: bool) -> Tensor:
    """The largest root mean square of a sample."""
    rows = leaf.reshape(leaf.shape[0] if batched else 1, -1)
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return lengths.amax() / math.sqrt(rows.shape[1])


def adjoint_norm(
    choice: Any, parameters: Sequence[Tensor]
) -> tuple[bool, Callable[[State, State, Mapping[Tensor, Tensor]], Tensor] | None]:
    """What `adjoint_options['norm']` says.

    Args:
        choice: "seminorm", the user's function, or None.
        parameters: the adjoint parameters, in the order in which the user's function expects
            them.

    Returns:
        Whether parameters are left out, and the user's function as `Backsolve` takes it: it sees
        (t, y, adjoint of y, adjoints of the parameters ...) with the entries of a tuple state one
        after another. The place of the time's own adjoint, which is no part of our reverse
        solve, holds a zero.

    Raises:
        InputError: for another name.
    """
    if choice is None or choice == "seminorm":
        return choice is not None, None
    if not callable(choice):
        given = repr(choice)
        raise InputError("adjoint_options['norm']", given, "'seminorm' or a function")

    def measured(y: State, adjoint: State, errors: Mapping[Tensor, Tensor]) -> Tensor:
        leaves = [y, adjoint] if isinstance(y, Tensor) else [*y, *adjoint]
        found = [errors.get(p, torch.zeros_like(p)) for p in parameters]
        zero = torch.zeros((), dtype=leaves[0].real.dtype, device=leaves[0].device)
        return torch.as_tensor(choice((zero, *leaves, *found))).abs()

    return False, measured
