"""The classifier as Lightning trains it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...nn import NeuralCDE, SeriesClassifier
from ..history import Columns
from ..seeding import seed_global
from ..series.batches import SeriesBatch
from ..series.module import EVALUATION_BATCH, TRAINING, SeriesModule
from ..series.scores import class_scores
from ..series.solves import evaluating, evaluations
from ..series.space import SeriesSpace
from ..trainer import Watched
from .config import NeuralCdeConfig
from .model import build_classifier

__all__ = ["NeuralCdeModule", "logits_of", "watched"]


def watched(config: NeuralCdeConfig) -> Watched:
    """What is looked at while it trains."""
    solves = config.model in ("neural-cde", "ode-rnn")
    counted = ("nfe_forward", "nfe_backward") if solves else ()
    validated = ("validation_loss", "validation_accuracy", "validation_auc")
    return Watched(
        columns=Columns(
            ("train_loss", "train_accuracy", *counted),
            (*validated, *(("validation_nfe",) * solves)),
        ),
        monitor="validation_loss",
        mode="min",
        shown={"train_loss": "loss", "validation_loss": "held-out"} | dict.fromkeys(counted, "NFE"),
    )


def logits_of(model: NeuralCDE | SeriesClassifier, batch: SeriesBatch) -> tuple[Tensor, float]:
    """What a classifier says of all series, `EVALUATION_BATCH` at a time.

    Returns:
        Logits ``(n, classes)`` on the CPU, and the mean evaluations of fields in a pass.
    """
    device = next(model.parameters()).device
    logits, counts = [], []
    with evaluating(model):
        for part in batch.parts(EVALUATION_BATCH):
            logits.append(model(part.observed.to(device)).float().cpu())
            counts.append(evaluations(model)[0])
    return torch.cat(logits), sum(counts) / len(counts)


class NeuralCdeModule(SeriesModule):
    """Cross entropy, optimiser and scores of held-out series.

    Args:
        settings: `NeuralCdeConfig.to_dict` of resolved settings; saved in each checkpoint.
        space: `SeriesSpace.to_dict` of the data's space; saved too.
    """

    model: NeuralCDE | SeriesClassifier

    def __init__(self, settings: dict[str, Any], space: dict[str, Any]) -> None:
        super().__init__()
        self.save_hyperparameters({"settings": settings, "space": space})
        self.config = NeuralCdeConfig.from_dict(settings)
        self.fit = self.config
        self.model = build_classifier(self.config, SeriesSpace.from_dict(space))

    def training_step(self, batch: SeriesBatch, batch_idx: int) -> Tensor:
        """Loss of one batch.

        Raises:
            TrainingError: If the loss is not finite.
        """
        assert batch.labels is not None
        seed_global(self.device, self.config.seed, TRAINING, self.global_step, self.global_rank)
        logits = self.model(batch.observed)
        loss = F.cross_entropy(logits, batch.labels)
        self._log("train_loss", loss.detach())
        self._log("train_accuracy", (logits.argmax(1) == batch.labels).float().mean())
        return self._check(loss)

    def validation_step(self, batch: SeriesBatch, batch_idx: int) -> None:
        """Scores of the held-out series, all in one batch."""
        assert batch.labels is not None
        logits, nfe = logits_of(self.model, batch)
        scores = class_scores(logits, batch.labels)
        self._log_validation("loss", scores.cross_entropy)
        self._log_validation("accuracy", scores.accuracy)
        if scores.auc is not None:
            self._log_validation("auc", scores.auc)
        if nfe:
            self._log_validation("nfe", nfe)
