"""Warnings and remarks of packages below this one that tell the user nothing."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet"]

# Each is let through by its own text, and here is why:
_HARMLESS = (
    # Lightning 2.6 looks into torch's pytrees in a way that torch 2.13 has renamed.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # Lightning takes any data loader without worker processes for a slow one; these slice tensors.
    r".*does not have many workers which may be a bottleneck",
    # A short run has no tenth iteration to log; its epochs' numbers are there all the same.
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    # The folder of checkpoints is there when a run is resumed: that is the point.
    r"Checkpoint directory .* exists and is not empty",
    # Each process validates on everything, so that there is nothing to gather from the others.
    r"It is recommended to use `self\.log\('validation_\w+', \.\.\., sync_dist=True\)`",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what is listed above inside the block, and Lightning's remarks on the machine."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _HARMLESS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.setLevel(level)
