"""The model as Lightning trains it."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ...nn import kl_annealing
from ..history import Columns
from ..seeding import seed_global
from ..series.batches import SeriesBatch
from ..series.module import TRAINING, VALIDATION, SeriesModule
from ..series.space import SeriesSpace
from ..trainer import Watched
from .config import LatentOdeConfig
from .measure import score
from .model import SeriesModel, build_model

__all__ = ["LatentOdeModule", "watched"]


def watched(config: LatentOdeConfig, space: SeriesSpace) -> Watched:
    """What is looked at while it trains."""
    classes = space.classes if config.label_weight else 0
    solves = config.model in ("latent-ode", "ode-rnn")
    evaluations = ("nfe_forward", "nfe_backward") if solves else ()
    averaged = ["train_loss", "train_elbo"]
    if config.stepping == "auto":
        averaged.append("per_sample")
    validated = ["validation_loss", "validation_elbo"]
    if space.width:
        validated.append("validation_rmse")
    if classes:
        averaged.append("train_cross_entropy")
        validated += ["validation_cross_entropy", "validation_accuracy", "validation_auc"]
    return Watched(
        columns=Columns((*averaged, *evaluations), (*validated, *(("validation_nfe",) * solves))),
        monitor="validation_loss",
        mode="min",
        shown={"train_loss": "loss", "validation_loss": "held-out"}
        | dict.fromkeys(evaluations, "NFE"),
    )


class LatentOdeModule(SeriesModule):
    """Loss, optimiser and scores of held-out series.

    The loss is minus the evidence lower bound per observed value, so that rates and the weight of
    the labels mean the same whatever the length of the series, plus the weighted cross entropy.

    Args:
        settings: `LatentOdeConfig.to_dict` of resolved settings; saved in each checkpoint.
        space: `SeriesSpace.to_dict` of the data's space; saved too, so that a model can be used
            where the data are not.
    """

    model: SeriesModel

    def __init__(self, settings: dict[str, Any], space: dict[str, Any]) -> None:
        super().__init__()
        self.save_hyperparameters({"settings": settings, "space": space})
        self.config = LatentOdeConfig.from_dict(settings)
        self.fit = self.config
        self.model = build_model(self.config, SeriesSpace.from_dict(space))

    def training_step(self, batch: SeriesBatch, batch_idx: int) -> Tensor:
        """Loss of one batch.

        Raises:
            TrainingError: If the loss is not finite.
        """
        config = self.config
        assert config.kl_warmup is not None
        # Noise follows from the iteration, so that a run can go on from any of them.
        seed_global(self.device, config.seed, TRAINING, self.global_step, self.global_rank)
        bound = self.model.bound(batch.observed, batch.target, config.samples)
        if config.stepping == "auto":
            self._log("per_sample", float(self.model.steps_by_samples))
        weight = kl_annealing(self.global_step, config.kl_warmup)
        values = self.model.values(batch.asked).sum().clamp(min=1)
        loss = -(bound.log_likelihood - weight * bound.kl).sum() / values
        if bound.logits is not None and batch.labels is not None:
            assert config.label_weight is not None
            cross_entropy = F.cross_entropy(bound.logits, batch.labels)
            loss = loss + config.label_weight * cross_entropy
            self._log("train_cross_entropy", cross_entropy.detach())
        self._log("train_loss", loss.detach())
        self._log("train_elbo", (bound.log_likelihood - bound.kl).detach().mean())
        return self._check(loss)

    def validation_step(self, batch: SeriesBatch, batch_idx: int) -> None:
        """Scores of the held-out series, all in one batch."""
        del batch_idx
        scores = score(self.model, batch, self.config.seed, VALIDATION)
        loss = -scores.per_value
        if scores.classes is not None:
            assert self.config.label_weight is not None
            loss += self.config.label_weight * scores.classes.cross_entropy
            self._log_validation("cross_entropy", scores.classes.cross_entropy)
            self._log_validation("accuracy", scores.classes.accuracy)
            if scores.classes.auc is not None:
                self._log_validation("auc", scores.classes.auc)
        self._log_validation("loss", loss)
        self._log_validation("elbo", scores.elbo.value)
        if scores.errors is not None:
            self._log_validation("rmse", scores.errors.rmse)
        if scores.nfe:
            self._log_validation("nfe", scores.nfe)
