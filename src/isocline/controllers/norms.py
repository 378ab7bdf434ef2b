"""Norms of the local error: a packed vector in, one number out.

The default holds the tolerance for every sample: the maximum over samples of each sample's root
mean square. Averaged over the batch instead (`rms`), a hard sample hides among easy ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import InputError, InputTypeError
from ..state import Packing, State

__all__ = ["Norm", "joined", "make_norm", "max_rms", "rms", "sample_rms", "scalar"]


class Norm(Protocol):
    """Reduces error vectors, each already divided by its tolerance, to numbers.

    Most methods give one vector. One with two error estimates gives both, together with the rule
    that makes one number of their norms (Hairer's for DOP853); one that chooses its order gives
    an estimate for each that it could choose, and wants the norm of each.
    """

    def __call__(self, *errors: Tensor, combine: Callable[..., Tensor] | None = None) -> Tensor:
        """The norm, shape (); the norms, shape (errors,), of several errors without `combine`."""


def sample_rms(vector: Tensor, packing: Packing) -> Tensor:
    """Root mean square of each sample of a packed vector, shape (batch,); (1,) without a batch."""
    leaves = packing.per_sample(vector)
    if len(leaves) == 1:
        leaf = leaves[0]
        lengths: Tensor = torch.linalg.vector_norm(leaf, dim=1)
        return lengths * (1.0 / math.sqrt(leaf.shape[1]))
    norms = torch.stack([torch.linalg.vector_norm(leaf, dim=1) for leaf in leaves])
    count = sum(leaf.shape[1] for leaf in leaves)
    return norms.square().sum(0).div(count).sqrt()


def joined(norms: Sequence[Tensor], combine: Callable[..., Tensor] | None) -> Tensor:
    """What a `Norm` answers, given the norm of each error, shape ()."""
    if combine is not None:
        return combine(*norms)
    return norms[0] if len(norms) == 1 else torch.stack(list(norms))


def max_rms(packing: Packing) -> Norm:
    """The largest of the samples' root mean squares: the tolerance holds for each sample."""
    alone = packing.batch in (None, 1)
    whole = rms(packing)

    def norm(*errors: Tensor, combine: Callable[..., Tensor] | None = None) -> Tensor:
        if alone:
            return whole(*errors, combine=combine)
        norms = [sample_rms(error, packing) for error in errors]
        if combine is not None:
            return combine(*norms).amax()
        return norms[0].amax() if len(norms) == 1 else torch.stack(norms).amax(1)

    return norm


def rms(packing: Packing) -> Norm:
    """Root mean square over the whole batch, as torchdiffeq and diffrax have it."""
    # As a tensor: a product with a number costs twice as much. A 0-d one may stay on the host.
    scale = torch.tensor(1.0 / math.sqrt(packing.size), dtype=packing.dtype.to_real())

    def norm(*errors: Tensor, combine: Callable[..., Tensor] | None = None) -> Tensor:
        norms = [torch.linalg.vector_norm(error) * scale for error in errors]
        return joined(norms, combine)

    return norm


def _custom(function: Callable[[State], Tensor], packing: Packing) -> Norm:
    def norm(*errors: Tensor, combine: Callable[..., Tensor] | None = None) -> Tensor:
        norms = [scalar(function(packing.unpack(error))) for error in errors]
        return joined(norms, combine)

    return norm


def scalar(value: Any) -> Tensor:
    """What a user's norm returned, if it is a real scalar."""
    if isinstance(value, (int, float)):
        return torch.tensor(float(value))
    if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
        shown = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise InputTypeError("norm", f"a function that returns {shown}", "a real scalar")
    return value.reshape(())


def make_norm(choice: str | Callable[[State], Tensor] | None, packing: Packing) -> Norm:
    """The norm that the user chose.

    Args:
        choice: None or "max_rms", "rms", or a function of a state (structured like y0, holding
            error over tolerance) that returns a non-negative scalar.
        packing: layout of the packed state.

    Raises:
        InputError: for an unknown name or a thing that is not callable.
    """
    if choice is None or choice == "max_rms":
        return max_rms(packing)
    if choice == "rms":
        return rms(packing)
    if isinstance(choice, str):
        raise InputError("norm", repr(choice), "'max_rms', 'rms' or a function of the state")
    if not callable(choice):
        raise InputTypeError("norm", type(choice).__name__, "a name or a function of the state")
    return _custom(choice, packing)
