"""The solves within a model: their evaluations, and how they run when it is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ...nn.solving import SolvingModule

__all__ = ["evaluating", "evaluations", "solves_of"]


def solves_of(model: nn.Module) -> list[SolvingModule]:
    """All modules of a model that solve."""
    return [module for module in model.modules() if isinstance(module, SolvingModule)]


def evaluations(model: nn.Module) -> tuple[int, int]:
    """Evaluations of fields in the last pass of a model, forward and backward, over all solves."""
    solving = solves_of(model)
    return sum(m.nfe_forward for m in solving), sum(m.nfe_backward for m in solving)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into the state in which it is measured, without a graph.

    In evaluation mode, with the tolerance kept for each series, in the precision of its weights.
    """
    training, solving = model.training, solves_of(model)
    norms = [module.norm for module in solving]
    device = next(model.parameters()).device
    model.eval()
    try:
        for module in solving:
            module.norm = None
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        model.train(training)
        for module, norm in zip(solving, norms, strict=True):
            module.norm = norm
