"""Scores of a flow on held-out points."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ...nn import CNF
from ..report import Mean
from ..seeding import seed_global
from .objectives import Objective

__all__ = ["EVALUATION_BATCH", "evaluating", "mean_of", "score"]

# Points in a solve without a graph.
EVALUATION_BATCH = 2000


@contextmanager
def evaluating(flow: CNF) -> Iterator[CNF]:
    """Put the flow into the state in which it is measured, without a graph.

    In evaluation mode, where its divergence is exact; with the tolerance kept for each point; and
    in the precision of its weights.
    """
    training = flow.training
    device = next(flow.parameters()).device
    flow.eval()
    try:
        with (
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
            flow.using(norm=None) as flow_in_use,
        ):
            yield flow_in_use
    finally:
        flow.train(training)


def score(objective: Objective, flow: CNF, points: Tensor, *seeds: int) -> tuple[Tensor, list[int]]:
    """Score all points, `EVALUATION_BATCH` at a time.

    Args:
        objective: Says what the score is.
        flow: The flow.
        points: ``(n, features)``, in the flow's units.
        *seeds: What the random numbers follow from, where the objective draws any.

    Returns:
        The scores, ``(n,)``, on the CPU, and the evaluations of the field in each solve.
    """
    device = next(flow.parameters()).device
    scores, evaluations = [], []
    with evaluating(flow):
        for number, part in enumerate(points.split(EVALUATION_BATCH)):
            seed_global(device, *seeds, number)
            scores.append(objective.score(flow, part.to(device)).cpu())
            evaluations.append(flow.nfe_forward)
    return torch.cat(scores), evaluations


def mean_of(scores: Tensor) -> Mean:
    """Mean and standard error of independent scores, ``(n,)``."""
    values = scores.double()
    spread = float(values.std()) if len(values) > 1 else math.nan
    return Mean(float(values.mean()), spread / math.sqrt(len(values)))
