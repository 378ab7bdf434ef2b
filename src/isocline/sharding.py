"""Modules whose parameters are spread over processes: a field that an adjoint replays is none."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from .errors import GradientError

__all__ = ["is_shard", "refusing_shards"]


def is_shard(tensor: Tensor) -> bool:
    """Whether a tensor is a part of one that is spread over processes."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


@contextlib.contextmanager
def refusing_shards() -> Iterator[None]:
    """Raise `GradientError` where this thread calls a module that FSDP shards.

    Such a module gathers its parameters for each call, and tells by autograd when a backward pass
    has come through it. A gradient that is summed from replayed steps would be lost on the way.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not torch.distributed.is_initialized():
        yield
        return
    kinds, here = (fsdp.FSDPModule, fsdp.FullyShardedDataParallel), threading.get_ident()

    def refuse(module: nn.Module, _: Any) -> None:
        if isinstance(module, kinds) and threading.get_ident() == here:
            raise GradientError(
                "the field, or a part of it, is sharded by FSDP: only `adjoint=Direct()` can "
                "differentiate it, with steps of equal length. Better shard the module that "
                "contains the solve, as in `fully_shard(block)`, and not its field."
            )

    handle = register_module_forward_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()
