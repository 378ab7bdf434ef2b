"""Scores of predictions and of classes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

__all__ = ["ClassScores", "Errors", "class_scores"]


@dataclass
class Errors:
    """Gathers squared errors, feature by feature.

    Args:
        features: How many.
    """

    features: int

    def __post_init__(self) -> None:
        self.total = torch.zeros(self.features, dtype=torch.float64)
        self.count = torch.zeros(self.features, dtype=torch.float64)

    def add(self, predicted: Tensor, true: Tensor, mask: Tensor) -> None:
        """Add predictions ``(..., features)`` of what the mask marks."""
        squares = (predicted.double() - true.double()).square().masked_fill(~mask, 0.0).cpu()
        self.total += squares.flatten(0, -2).sum(0)
        self.count += mask.flatten(0, -2).sum(0).cpu()

    @property
    def rmse(self) -> float:
        """Over all values of all features; NaN without any."""
        count = float(self.count.sum())
        return math.sqrt(float(self.total.sum()) / count) if count else math.nan

    @property
    def by_feature(self) -> Tensor:
        """``(features,)``; NaN for one that was never asked for."""
        return (self.total / self.count).sqrt()


@dataclass(frozen=True)
class ClassScores:
    """How well classes are told apart.

    Attributes:
        accuracy: Share of series whose likeliest class is theirs.
        auc: Area under the receiver operating characteristic, with several classes the mean of one
            against the rest; ``None`` where the labels do not have all classes.
        cross_entropy: In nats.
        confusion: Rows: true class; columns: likeliest class.
    """

    accuracy: float
    auc: float | None
    cross_entropy: float
    confusion: list[list[int]]


def class_scores(logits: Tensor, labels: Tensor) -> ClassScores:
    """Score logits ``(n, classes)`` against labels ``(n,)``."""
    logits, labels = logits.double().cpu(), labels.cpu()
    classes = logits.shape[1]
    probabilities = logits.softmax(-1)
    found = logits.argmax(-1)
    confusion = torch.bincount(classes * labels + found, minlength=classes**2)
    auc = None
    if len(labels.unique()) == classes > 1:
        columns = probabilities[:, 1] if classes == 2 else probabilities
        auc = float(roc_auc_score(labels.numpy(), columns.numpy(), multi_class="ovr"))
    return ClassScores(
        accuracy=float((found == labels).double().mean()),
        auc=auc,
        cross_entropy=float(torch.nn.functional.cross_entropy(logits, labels)),
        confusion=confusion.view(classes, classes).tolist(),
    )
