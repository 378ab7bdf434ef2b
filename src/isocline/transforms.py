"""Function transforms: whether one is at work, and what the host may read under it.

Under `torch.func` a tensor wraps others: `vmap` shows one member of a batch, `grad` and `jvp` show
a value that is being differentiated. A solve decides on the host how long its steps are, and
under `vmap` it decides for all members at once. So a number that is read here is the largest of
all members', and a condition holds if it holds for all of them: the members take common steps, at
the pace of the hardest, as samples of a batch do.

What is read is a number and no tensor, so nothing that the transforms look after is lost by it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = [
    "active",
    "differentiating",
    "everywhere",
    "largest",
    "mapped",
    "shared",
    "tracked",
    "unwrapped",
]


def active() -> bool:
    """Whether a transform of `torch.func`, or a level of forward-mode autograd, is at work here.

    PyTorch asks the same before every `autograd.Function`; there is no public name for it. The
    levels of forward mode are those of all threads.
    """
    return bool(torch._C._are_functorch_transforms_active()) or forward_ad._current_level >= 0


def differentiating() -> bool:
    """Whether one of them takes derivatives: any but `vmap`."""
    if forward_ad._current_level >= 0:
        return True
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return any(layer.key() != torch._C._functorch.TransformType.Vmap for layer in stack)


def unwrapped(tensor: Tensor) -> Tensor:
    """The tensor under all wrappers, with all members of all batches: to be read, not to be used.

    As `torch.func.debug_unwrap`, which came with PyTorch 2.7.
    """
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def mapped(tensor: Tensor) -> bool:
    """Whether the members of a `vmap` may see different values of `tensor`."""
    return unwrapped(tensor).numel() != tensor.numel()


def tracked(tensor: Tensor) -> bool:
    """Whether a derivative with respect to `tensor` may be wanted."""
    if torch.is_grad_enabled() and tensor.requires_grad:
        return True
    if not active():
        return False
    wrapped = unwrapped(tensor) is not tensor
    return wrapped or forward_ad.unpack_dual(tensor).tangent is not None


def largest(value: Tensor) -> float:
    """The largest of all members' real scalars; NaN if one of them is."""
    return float(unwrapped(value.detach()).amax())


def everywhere(condition: Tensor) -> bool:
    """Whether all elements of `condition`, bool, are true for all members."""
    return bool(unwrapped(condition).all())


def shared(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A norm whose answers hold for all members of a `vmap`: the largest of theirs."""

    def of_all(*errors: Tensor, combine: Callable[..., Tensor] | None = None) -> Tensor:
        found = norm(*errors, combine=combine)
        numbers = [largest(value) for value in found.reshape(-1).unbind()]
        return torch.tensor(numbers, dtype=torch.float64).reshape(found.shape)

    return of_all
